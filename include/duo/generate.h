// Text or tokens out of a session: sampling, stop conditions, streaming.
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
  std::vector<int32_t> stop_ids;                 // besides the model's eos ids: generation ends with one of these
  SpecialTokens special = SpecialTokens::kNone;  // whether special tokens show in the text
  bool ignore_eos = false;                       // go on behind eos (for measurements)
};

enum class FinishReason : uint8_t { kMaxTokens, kEos, kStop, kContextFull, kCancelled };
/// "length", "eos", "stop", "context", "cancelled".
const char* FinishReasonName(FinishReason reason);

struct GenerateResult {
  std::vector<int32_t> tokens;  // generated, the ending eos not included
  std::string text;             // without the stop string; empty without a tokenizer
  FinishReason finish = FinishReason::kMaxTokens;
  double prefill_seconds = 0;
  double decode_seconds = 0;       // from the first sampled token on
  double first_token_seconds = 0;  // from the call to the first token
};

/// Called after every token with the text that became certain not to belong to a stop string, often "" (always without
/// a tokenizer). Return false to stop.
using TextCallback = std::function<bool(const std::string& piece)>;

/// Prefills `prompt` behind what the session holds, then samples. `tokenizer` may be null: tokens only. The session
/// ends up holding the prompt and result.tokens, but for the last of these unless generation ended by eos: nobody asked
/// for its successor.
/// Errors as Session::Prefill; kInvalidArgument for bad options.
Result<GenerateResult> Generate(Session* session, const Model& model, const Tokenizer* tokenizer,
                                const std::vector<int32_t>& prompt, const GenerateOptions& options,
                                const TextCallback& on_text = {}, const ProgressCallback& progress = {});

}  // namespace duo
