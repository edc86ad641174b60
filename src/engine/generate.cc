#include "duo/generate.h"

#include "base/clock.h"
#include "engine/token_loop.h"
#include "model/weights.h"

namespace duo {
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
  DUO_RETURN_IF_ERROR(CheckGenerateOptions(options, tokenizer));
  const auto begin = Clock::now();
  DUO_RETURN_IF_ERROR(session->Prefill(prompt, progress));
  const auto prefilled = Clock::now();
  GenerateResult result;
  result.prefill_seconds = SecondsBetween(begin, prefilled);
  TokenLoop loop(model.config(), tokenizer, options);
  while (!loop.finished()) {
    const TokenLoop::Step step = loop.Next(session->logits(), session->tokens());
    if (result.first_token_seconds == 0) result.first_token_seconds = SecondsSince(begin);
    if (!step.is_text) break;
    result.tokens.push_back(step.id);
    result.text += step.piece;
    if (on_text && !on_text(step.piece)) loop.Stop(FinishReason::kCancelled);
    if (loop.finished()) break;
    const Status decoded = session->Decode(step.id);
    if (decoded.code() == StatusCode::kResourceExhausted && session->len() == session->options().max_context) {
      loop.Stop(FinishReason::kContextFull);
    } else if (!decoded.ok()) {
      return decoded;
    }
  }
  // The calls above check once a second, so they may have missed a change in the last second.
  DUO_RETURN_IF_ERROR(model.weights().CheckFiles(Checkpoint::Replaced::kIsFine));
  const std::string rest = loop.Flush();
  result.text += rest;
  if (!rest.empty() && on_text && loop.finish() != FinishReason::kCancelled) on_text(rest);
  result.finish = loop.finish();
  result.decode_seconds = SecondsSince(prefilled);
  return result;
}

}  // namespace duo
