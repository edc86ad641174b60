// Parses any bytes as the body of a request. Accepted requests are in range; the error of a refused one names the
// field.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "duo/sampler.h"
#include "server/api_request.h"

namespace {

void CheckError(const duo::ApiError& error) {
  DUO_CHECK(error.http_status == 400 && !error.param.empty() && !error.message.empty(), "an error names its field");
  DUO_CHECK(!duo::JsonText(duo::ToJson(error)).empty(), "an error is JSON, whatever bytes it quotes");
}

void CheckAccepted(const duo::CompletionRequest& request, duo::CompletionKind kind) {
  DUO_CHECK(duo::CheckSamplerOptions(request.generate.sampler).ok(), "sampling options in range");
  DUO_CHECK(kind == duo::CompletionKind::kText ? !request.prompts.empty() : !request.messages.empty(), "a prompt");
  DUO_CHECK(request.prompts.size() <= duo::kMaxPrompts, "few prompts");
  DUO_CHECK(request.generate.stop.size() <= duo::kMaxStops, "few stop texts");
  DUO_CHECK(request.n_log_probs >= -1 && request.n_log_probs <= duo::kMaxLogProbs, "few log probabilities");
  DUO_CHECK(request.cache.empty() || duo::IsSessionName(request.cache), "a name that is a file's name");
  DUO_CHECK(request.max_tokens.value_or(0) >= 0, "a number of tokens");
  DUO_CHECK(request.spec.salt.size() <= duo::kMaxSaltBytes, "a short salt");
  for (const duo::Prompt& prompt : request.prompts) {
    const auto* ids = std::get_if<std::vector<int32_t>>(&prompt);
    for (const int32_t id : ids == nullptr ? std::vector<int32_t>() : *ids) DUO_CHECK(id >= 0, "a token");
  }
  const duo::Json spec = ToJson(request.spec);
  const auto again = duo::CacheSpecFromJson(spec, "again");
  DUO_CHECK(again.ok() && *again == request.spec, "a spec that was written can be read");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  for (const duo::CompletionKind kind : {duo::CompletionKind::kText, duo::CompletionKind::kChat}) {
    const auto request = duo::ParseCompletion(body, kind);
    if (request.ok()) {
      CheckAccepted(*request, kind);
    } else {
      CheckError(request.error());
    }
  }
  if (const auto tokenize = duo::ParseTokenize(body); !tokenize.ok()) CheckError(tokenize.error());
  if (const auto tokens = duo::ParseDetokenize(body); !tokens.ok()) CheckError(tokens.error());
  return 0;
}
