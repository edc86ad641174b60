// One run of `duo demo`: a long text is read once, then every question is answered from that same state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "duo/model.h"
#include "duo/session.h"
#include "duo/tokenizer.h"

namespace duo::cli {

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

/// Runs `input` with these heads. kCancelled on Ctrl-C; other errors as Session's.
Result<DemoMode> RunDemoMode(const std::string& name, const Model& model, const Tokenizer& tokenizer,
                             const SessionOptions& options, const DemoInput& input, const ProgressCallback& progress);

/// Runs one chunk and drops it, so that the first mode measured does not pay for set-up that happens once.
Status WarmUp(const Model& model, const SessionOptions& options, const DemoInput& input);

/// Draws as many streaming heads as `like` has, at random with `seed`.
Result<HeadChoice> RandomHeadsLike(const HeadChoice& like, uint64_t seed);

}  // namespace duo::cli
