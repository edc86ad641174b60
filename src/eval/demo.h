// The measurement of `duo demo`: a long text is read once, then every question is answered from that same state. The
// text is a book with hidden facts, or the user's own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/go_on.h"
#include "duo/model.h"
#include "duo/progress.h"
#include "duo/result.h"
#include "duo/session.h"
#include "duo/tokenizer.h"
#include "text/builtin_book.h"

namespace duo {

struct DemoQuestion {
  std::string prompt;                   // follows the text exactly as it is
  std::optional<std::string> expected;  // absent for the user's own questions
  double depth = 0;                     // of the fact, as a share of the text; with `expected` only
};

struct DemoAnswer {
  std::string text;  // as generated, up to the first newline
  bool hit = false;  // equals the expected answer, ignoring spaces around it and a full stop
};

/// The results of one choice of heads.
struct DemoMode {
  std::string name;  // "full", "duo", "random"
  std::vector<DemoAnswer> answers;
  int hits = 0;
  double sparsity = 0;
  SessionOptions session;            // as resolved
  uint64_t kv_bytes = 0;             // at the end of the text, as the session counts it
  double prefill_s = 0;              // of the text
  double time_to_first_token_s = 0;  // text and first question together
  double prefill_tokens_per_s = 0;
  double decode_tokens_per_s = 0;  // over all answers; 0 when no answer had a second token
};

struct DemoInput {
  std::vector<int32_t> text;  // tokens, begin-of-text included
  std::vector<DemoQuestion> questions;
  int64_t max_tokens = 0;  // per answer
};

/// Max facts of one book.
inline constexpr int kMaxBookFacts = kMaxPasskeys + kMaxCodes;

/// Makes a book of up to n_tokens tokens with n_facts facts, and a question for each. An answer may have a few tokens
/// more than the longest expected one. The same seed gives the same book. Errors as MakeBook.
Result<DemoInput> MakeBookInput(const Tokenizer& tokenizer, int64_t n_tokens, int n_facts, uint64_t seed);

/// Runs `input` with these heads. kCancelled when `progress` or `go_on`, which is asked after every token of an answer,
/// returns false. Other errors as Session's.
Result<DemoMode> RunDemoMode(const std::string& name, const Model& model, const Tokenizer& tokenizer,
                             const SessionOptions& options, const DemoInput& input, const ProgressCallback& progress,
                             const GoOn& go_on);

/// Runs one chunk and drops it, so that the first mode measured does not pay for set-up that happens once.
Status WarmUpDemo(const Model& model, const SessionOptions& options, const DemoInput& input);

/// Draws as many streaming heads as `like` has, at random with `seed`.
Result<HeadChoice> RandomHeadsLike(const HeadChoice& like, uint64_t seed);

}  // namespace duo
