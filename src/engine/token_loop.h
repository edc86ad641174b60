// Turns logits into text token by token: sampling, ends, stop strings. Used by Generate, which runs one sequence, and
// by code that runs several sequences.
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

/// Generates the tokens of one continuation. Not thread safe. Config and tokenizer must outlive it.
class TokenLoop {
 public:
  /// `tokenizer` may be null; then there is no text. The options must have passed CheckGenerateOptions.
  TokenLoop(const ModelConfig& config, const Tokenizer* tokenizer, const GenerateOptions& options);

  struct Step {
    int32_t id = -1;       // the token that was drawn, even if it ended the text
    bool is_text = false;  // whether the token belongs to the text and is not an end
    std::string piece;     // text that became certain
  };
  /// Draws the next token. `history` is the sequence so far. Must not be called when finished(). Unless finished()
  /// afterwards, the caller decodes the token to get the next logits.
  Step Next(std::span<const float> logits, std::span<const int32_t> history);

  /// Whether generation has ended. True from the start when max_tokens is 0.
  bool finished() const { return finish_.has_value(); }
  FinishReason finish() const { return finish_.value_or(FinishReason::kCancelled); }
  /// Ends generation for a reason from outside.
  void Stop(FinishReason reason);
  /// Returns the text that was held back. Call it once finished(). A stop string in this text changes finish().
  std::string Flush();

  int64_t n_tokens() const { return n_tokens_; }  // tokens of the text

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
