#include "engine/token_loop.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/error.h"

namespace duo {

Status CheckGenerateOptions(const GenerateOptions& options, const Tokenizer* tokenizer) {
  if (options.max_tokens < 0) return BadOption("max_tokens", options.max_tokens, "0 or more");
  if (!options.stop.empty() && tokenizer == nullptr) {
    return InvalidArgument("a stop text needs a tokenizer").About("stop");
  }
  return CheckSamplerOptions(options.sampler);
}

TokenLoop::TokenLoop(const ModelConfig& config, const Tokenizer* tokenizer, const GenerateOptions& options)
    : config_(config), options_(options), sampler_(options.sampler), matcher_(options.stop) {
  if (tokenizer != nullptr) decoder_ = std::make_unique<StreamDecoder>(*tokenizer, options.special);
  if (options.max_tokens == 0) finish_ = FinishReason::kMaxTokens;
}

bool TokenLoop::Ends(int32_t id) const {
  const auto in = [id](const std::vector<int32_t>& ids) { return std::find(ids.begin(), ids.end(), id) != ids.end(); };
  return (!options_.ignore_eos && in(config_.eos_ids)) || in(options_.stop_ids);
}

TokenLoop::Step TokenLoop::Next(std::span<const float> logits, std::span<const int32_t> history) {
  DUO_CHECK(!finished(), "Next must not be called when finished()");
  Step step;
  step.id = sampler_.Sample(logits, history);
  if (Ends(step.id)) {
    finish_ = FinishReason::kEos;
    return step;
  }
  step.is_text = true;
  ++n_tokens_;
  if (decoder_ != nullptr) step.piece = matcher_.Push(decoder_->Push(step.id));
  if (matcher_.stopped()) {
    finish_ = FinishReason::kStop;
  } else if (n_tokens_ == options_.max_tokens) {
    finish_ = FinishReason::kMaxTokens;
  }
  return step;
}

void TokenLoop::Stop(FinishReason reason) { finish_ = reason; }

std::string TokenLoop::Flush() {
  if (decoder_ == nullptr || matcher_.stopped()) return "";
  std::string rest = matcher_.Push(decoder_->Flush());
  if (matcher_.stopped()) {
    finish_ = FinishReason::kStop;
  } else {
    rest += matcher_.Flush();
  }
  return rest;
}

}  // namespace duo
