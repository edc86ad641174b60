// Training texts of DuoAttention's multi-passkey task (arXiv:2410.10819 section 2.2 and its reference code). Passkeys,
// which are sequences of random words, are hidden in a long text. Questions at its end ask for them. The labels are the
// whole section of questions and answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "identify/teacher_student.h"
#include "text/builtin_book.h"
#include "text/haystack.h"

namespace duo {

class Rng;  // base/rng.h

/// The defaults are those of the published runs.
struct PasskeyOptions {
  int n_passkeys = 10;         // 1..kMaxPasskeys
  int n_words = 32;            // words per passkey, drawn from the 26 words of the NATO alphabet; 1..4096
  int64_t min_length = 1000;   // min tokens from the haystack, without passkeys and questions
  int64_t max_length = 32000;  // max tokens from the haystack
  int n_lengths = 50;          // lengths, evenly from min_length to max_length; each text draws one of them
  double depth_begin = 0.05;   // needle depth, as a share of the text
  double depth_end = 0.95;
  int n_depths = 1000;  // depths, evenly from depth_begin to depth_end; each passkey of a text draws a different one
  uint64_t seed = 0;
};

struct TrainingText {
  std::vector<int32_t> ids;
  LabelRange labels;
};

/// Makes training texts. Text number `index` depends only on the haystack, the options and the index, so a run can be
/// resumed anywhere. Immutable.
class TrainingTexts {
 public:
  /// Texts are slices of `haystack` with passkeys in them. kInvalidArgument if the options are bad, or the haystack has
  /// fewer than max_length tokens; the message says how many it has. Borrows `tokenizer`.
  static Result<TrainingTexts> InHaystack(const Tokenizer& tokenizer, const PasskeyOptions& options,
                                          std::string haystack);
  /// Like InHaystack with the text at `path` (LoadHaystack). Errors of reading it have the subject "text".
  static Result<TrainingTexts> InFiles(const Tokenizer& tokenizer, const PasskeyOptions& options,
                                       const std::string& path);
  /// Texts are books of builtin_book.h with the book's own facts: passkeys of 4 to 8 words, and codes. n_passkeys is
  /// the number of facts, and n_words is not used. A text that is too short for all facts has as many as fit.
  static Result<TrainingTexts> Builtin(const Tokenizer& tokenizer, const PasskeyOptions& options);

  Result<TrainingText> Make(uint64_t index) const;

  /// kInvalidArgument if even the longest builtin text is too short for all n_passkeys.
  Status CheckPasskeysFit() const;

  /// Text number `index` without questions, n_tokens long. A builtin text keeps its facts, and may be up to a sentence
  /// shorter. For scores that come from reading an ordinary text.
  Result<std::vector<int32_t>> Plain(uint64_t index, int64_t n_tokens) const;

  /// The text that passkeys are hidden in; empty for Builtin.
  const std::string& haystack() const { return haystack_; }
  /// Whether InFiles found more text than kMaxHaystackBytes and left out the rest.
  bool truncated() const { return truncated_; }

  /// Upper bound of the tokens of a text: max_length plus a bound for passkeys, questions and answers.
  int64_t max_text_tokens() const { return max_text_tokens_; }

 private:
  TrainingTexts(const Tokenizer& tokenizer, const PasskeyOptions& options)
      : tokenizer_(&tokenizer), options_(options) {}
  Status CheckOptions() const;
  int64_t DrawLength(Rng* rng) const;
  Result<TrainingText> MakeInHaystack(uint64_t index) const;
  Result<TrainingText> MakeBuiltin(uint64_t index) const;
  /// Makes a book with as many facts as fit, min_facts to n_passkeys. Appends their questions and answers to
  /// `questions`, which may be null.
  Result<std::string> BuiltinText(Rng* rng, int64_t n_tokens, int min_facts, std::string* questions) const;
  /// Returns about n_tokens tokens of the haystack from a random place.
  std::string Slice(Rng* rng, int64_t n_tokens) const;
  /// Decodes `ids` and drops an incomplete character at the end.
  std::string WholeCharacters(std::vector<int32_t> ids) const;
  TrainingText Join(const std::string& context, const std::string& questions) const;

  const Tokenizer* tokenizer_;
  PasskeyOptions options_;
  std::string haystack_;  // empty: builtin
  bool truncated_ = false;
  double bytes_per_token_ = 4;
  int64_t max_text_tokens_ = 0;
};

}  // namespace duo
