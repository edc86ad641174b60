// What becomes of one token after another, from logits to text: sampling, ends, stop strings. Shared by Generate, which
// runs one sequence, and by whoever runs several.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "duo/generate.h"
#include "engine/stop_matcher.h"

namespace duo {

/// kInvalidArgument names the option.
Status CheckGenerateOptions(const GenerateOptions& options, const Tokenizer* tokenizer);

/// The tokens of one continuation. Not thread safe; config and tokenizer must outlive it.
class TokenLoop {
 public:
  /// `tokenizer` may be null: tokens only. The options have passed CheckGenerateOptions.
  TokenLoop(const ModelConfig& config, const Tokenizer* tokenizer, const GenerateOptions& options);

  struct Step {
    int32_t id = -1;       // the token that was drawn, also when it ended the text
    bool is_text = false;  // it belongs to the text: not an end
    std::string piece;     // text that became certain
  };
  /// Draws the next token; history: the sequence so far. Only while !finished(). Afterwards, unless finished(), the
  /// token is to be decoded for the next logits.
  Step Next(std::span<const float> logits, std::span<const int32_t> history);

  /// Whether no further token is wanted. True from the start when max_tokens is 0.
  bool finished() const { return finish_.has_value(); }
  FinishReason finish() const { return finish_.value_or(FinishReason::kCancelled); }
  /// Ends it for a reason from outside.
  void Stop(FinishReason reason);
  /// Text that was held back, once finished(). A stop string found in it changes finish().
  std::string Flush();

  int64_t n_tokens() const { return n_tokens_; }  // of the text

 private:
  bool Ends(int32_t id) const;

  const ModelConfig& config_;
  GenerateOptions options_;
  Sampler sampler_;
  std::unique_ptr<StreamDecoder> decoder_;
  StopMatcher matcher_;
  int64_t n_tokens_ = 0;
  std::optional<FinishReason> finish_;
};

}  // namespace duo
