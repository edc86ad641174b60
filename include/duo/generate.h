// Generates text or tokens with a session: sampling, stop conditions, streaming.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "duo/result.h"
#include "duo/sampler.h"
#include "duo/session.h"
#include "duo/tokenizer.h"

namespace duo {

struct GenerateOptions {
  int64_t max_tokens = 256;  // >= 0
  SamplerOptions sampler;
  std::vector<std::string> stop;                 // the text ends before the first of these; needs a tokenizer
  std::vector<int32_t> stop_ids;                 // ids that end generation, in addition to the model's eos ids
  SpecialTokens special = SpecialTokens::kNone;  // whether special tokens show in the text
  bool ignore_eos = false;                       // continue after eos (for measurements)
};

enum class FinishReason : uint8_t { kMaxTokens, kEos, kStop, kContextFull, kCancelled };
/// "length", "eos", "stop", "context", "cancelled".
const char* FinishReasonName(FinishReason reason);

struct GenerateResult {
  std::vector<int32_t> tokens;  // generated tokens, without the eos that ended them
  std::string text;             // without the stop string; empty without a tokenizer
  FinishReason finish = FinishReason::kMaxTokens;
  double prefill_seconds = 0;
  double decode_seconds = 0;       // from the end of prefill on
  double first_token_seconds = 0;  // from the call to the first token
};

/// Called after every token with the new text that can no longer be part of a stop string. The text is often "", and
/// always without a tokenizer. Return false to stop.
using TextCallback = std::function<bool(const std::string& piece)>;

/// Appends `prompt` to the session's tokens, prefills it, then samples. `tokenizer` may be null; the result then has
/// tokens only. Afterwards the session holds the prompt and result.tokens except the last, which was never fed back
/// (unless generation ended at eos).
///
/// Errors as Session::Prefill; kInvalidArgument for bad options.
Result<GenerateResult> Generate(Session* session, const Model& model, const Tokenizer* tokenizer,
                                const std::vector<int32_t>& prompt, const GenerateOptions& options,
                                const TextCallback& on_text = {}, const ProgressCallback& progress = {});

}  // namespace duo
