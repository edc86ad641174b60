#include "duo/generate.h"

#include <algorithm>
#include <memory>

#include "base/clock.h"
#include "engine/stop_matcher.h"

namespace duo {
namespace {

Status CheckOptions(const GenerateOptions& options, const Tokenizer* tokenizer) {
  if (options.max_tokens < 0) {
    return Status(StatusCode::kInvalidArgument, "max-tokens: " + std::to_string(options.max_tokens) + " is negative");
  }
  if (!options.stop.empty() && tokenizer == nullptr) {
    return Status(StatusCode::kInvalidArgument, "stop: a stop text needs a tokenizer");
  }
  return CheckSamplerOptions(options.sampler);
}

/// Turns tokens into text that is shown once it is certain.
class TextStream {
 public:
  TextStream(const Tokenizer* tokenizer, const GenerateOptions& options, const TextCallback& on_text)
      : matcher_(options.stop), on_text_(on_text) {
    if (tokenizer != nullptr) decoder_ = std::make_unique<StreamDecoder>(*tokenizer, options.special);
  }

  /// False when the callback wants no more.
  bool Push(int32_t id) { return Emit(decoder_ == nullptr ? "" : matcher_.Push(decoder_->Push(id))); }
  void Finish() {
    if (decoder_ == nullptr || matcher_.stopped()) return;
    std::string rest = matcher_.Push(decoder_->Flush());
    if (!matcher_.stopped()) rest += matcher_.Flush();
    if (!rest.empty()) Emit(rest);
  }
  bool stopped() const { return matcher_.stopped(); }
  const std::string& text() const { return text_; }

 private:
  bool Emit(const std::string& piece) {
    text_ += piece;
    wanted_ = wanted_ && (!on_text_ || on_text_(piece));
    return wanted_;
  }

  std::unique_ptr<StreamDecoder> decoder_;
  StopMatcher matcher_;
  const TextCallback& on_text_;
  std::string text_;
  bool wanted_ = true;  // until the callback says otherwise; it is not called again then
};

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kMaxTokens: return "length";
    case FinishReason::kEos: return "eos";
    case FinishReason::kStop: return "stop";
    case FinishReason::kContextFull: return "context";
    case FinishReason::kCancelled: return "cancelled";
  }
  return "unknown";
}

Result<GenerateResult> Generate(Session* session, const Model& model, const Tokenizer* tokenizer,
                                const std::vector<int32_t>& prompt, const GenerateOptions& options,
                                const TextCallback& on_text, const ProgressCallback& progress) {
  DUO_RETURN_IF_ERROR(CheckOptions(options, tokenizer));
  const auto begin = Clock::now();
  DUO_RETURN_IF_ERROR(session->Prefill(prompt, progress));
  const auto prefilled = Clock::now();
  GenerateResult result;
  result.prefill_seconds = SecondsBetween(begin, prefilled);
  Sampler sampler(options.sampler);
  TextStream text(tokenizer, options, on_text);
  const std::vector<int32_t>& eos = model.config().eos_ids;
  const auto ends = [&](int32_t id) {
    const bool is_eos = !options.ignore_eos && std::find(eos.begin(), eos.end(), id) != eos.end();
    return is_eos || std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end();
  };
  while (static_cast<int64_t>(result.tokens.size()) < options.max_tokens) {
    const int32_t id = sampler.Sample(session->logits(), session->tokens());
    if (result.tokens.empty()) result.first_token_seconds = SecondsSince(begin);
    if (ends(id)) {
      result.finish = FinishReason::kEos;
      break;
    }
    result.tokens.push_back(id);
    if (!text.Push(id)) {
      result.finish = FinishReason::kCancelled;
      break;
    }
    if (text.stopped()) {
      result.finish = FinishReason::kStop;
      break;
    }
    if (static_cast<int64_t>(result.tokens.size()) == options.max_tokens) break;
    const Status step = session->Decode(id);
    if (step.code() == StatusCode::kResourceExhausted && session->len() == session->options().max_context) {
      result.finish = FinishReason::kContextFull;
      break;
    }
    DUO_RETURN_IF_ERROR(step);
  }
  text.Finish();
  if (text.stopped()) result.finish = FinishReason::kStop;
  result.text = text.text();
  result.decode_seconds = SecondsSince(prefilled);
  return result;
}

}  // namespace duo
