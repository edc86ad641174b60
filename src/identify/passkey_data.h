// Training texts of DuoAttention's multi-passkey task (arXiv:2410.10819 section 2.2 and its reference code): sequences
// of random words hidden in a long text, asked for at its end. The labels are the whole section of questions and
// answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "identify/teacher_student.h"
#include "text/builtin_book.h"

namespace duo {

class Rng;  // base/rng.h

/// Defaults: those of the published runs.
struct PasskeyOptions {
  int n_passkeys = 10;        // 1..kMaxPasskeys
  int n_words = 32;           // of a passkey, drawn from the 26 words of the NATO alphabet; 1..4096
  int64_t min_tokens = 1000;  // of the haystack, without passkeys and questions
  int64_t max_tokens = 32000;
  int n_lengths = 50;  // evenly from min_tokens to max_tokens; a text's is drawn from them
  double depth_begin = 0.05;
  double depth_end = 0.95;
  int n_depths = 1000;  // evenly from depth_begin to depth_end; the passkeys' are drawn from them, all different
  uint64_t seed = 0;
};

struct TrainingText {
  std::vector<int32_t> ids;
  LabelRange labels;
};

/// Text number `index` depends on the options and the index alone, so that a run can be resumed anywhere. Immutable.
class TrainingTexts {
 public:
  /// Passkeys in slices of `haystack`. kInvalidArgument for bad options, and when the haystack has fewer than
  /// max_tokens tokens; the sentence says how many there are. Borrows `tokenizer`.
  static Result<TrainingTexts> InHaystack(const Tokenizer& tokenizer, const PasskeyOptions& options,
                                          std::string haystack);
  /// Books of builtin_book.h with its own facts: passkeys of 4 to 8 words, and codes. Of `options`, n_words is not used
  /// and n_passkeys is the number of facts; a text where they do not fit has as many as do.
  static Result<TrainingTexts> Builtin(const Tokenizer& tokenizer, const PasskeyOptions& options);

  Result<TrainingText> Make(uint64_t index) const;

  /// kInvalidArgument when not even the longest builtin texts have room for all n_passkeys.
  Status CheckPasskeysFit() const;

  /// Text number `index` without questions, n_tokens long (builtin: up to a sentence shorter, with its facts): for
  /// scores that are read from ordinary reading.
  Result<std::vector<int32_t>> Plain(uint64_t index, int64_t n_tokens) const;

  /// Most tokens that a text can have: max_tokens and an upper bound of what is added to it.
  int64_t max_text_tokens() const { return max_text_tokens_; }

 private:
  TrainingTexts(const Tokenizer& tokenizer, const PasskeyOptions& options)
      : tokenizer_(&tokenizer), options_(options) {}
  Status CheckOptions() const;
  int64_t DrawLength(Rng* rng) const;
  Result<TrainingText> MakeInHaystack(uint64_t index) const;
  Result<TrainingText> MakeBuiltin(uint64_t index) const;
  /// A book with as many facts as fit, min_facts to n_passkeys; their questions and answers are added to `questions`
  /// if given.
  Result<std::string> BuiltinText(Rng* rng, int64_t n_tokens, int min_facts, std::string* questions) const;
  /// A stretch of the haystack of about n_tokens tokens, from a random place.
  std::string Slice(Rng* rng, int64_t n_tokens) const;
  /// Text of `ids` without half a character at its end.
  std::string WholeCharacters(std::vector<int32_t> ids) const;
  TrainingText Join(const std::string& context, const std::string& questions) const;

  const Tokenizer* tokenizer_;
  PasskeyOptions options_;
  std::string haystack_;  // empty: builtin
  double bytes_per_token_ = 4;
  int64_t max_text_tokens_ = 0;
};

}  // namespace duo
