// Parses any text as config.json, and the part after a NUL byte as generation_config.json. Accepted facts must be
// usable.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/limits.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace limits = duo::limits;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t nul = text.find('\0');
  const auto config = duo::ParseJson(text.substr(0, nul), "config.json");
  if (!config.ok()) return 0;
  duo::Json generation;
  if (nul != std::string_view::npos) {
    const auto parsed = duo::ParseJson(text.substr(nul + 1), "generation_config.json");
    if (parsed.ok()) generation = *parsed;
  }
  const auto hf = duo::ParseHfConfig(*config, generation, "config.json");
  if (!hf.ok()) return 0;
  DUO_CHECK(hf->n_kv_heads >= 1 && hf->n_heads % hf->n_kv_heads == 0 && hf->n_heads <= limits::kMaxHeads, "heads");
  DUO_CHECK(hf->head_dim >= 2 && hf->head_dim % 2 == 0 && hf->head_dim <= limits::kMaxHeadDim, "head_dim");
  DUO_CHECK(hf->n_layers >= 1 && hf->n_layers <= limits::kMaxLayers, "layers");
  DUO_CHECK(hf->hidden_size >= 1 && hf->hidden_size <= limits::kMaxHiddenSize, "hidden_size");
  DUO_CHECK(hf->vocab_size >= 1 && hf->vocab_size <= limits::kMaxVocabSize, "vocab_size");
  for (const int32_t id : hf->eos_ids) DUO_CHECK(id >= 0 && id < hf->vocab_size, "eos id");
  DUO_CHECK(std::isfinite(hf->rope.theta) && hf->rope.theta > 1, "rope_theta");
  DUO_CHECK(std::isfinite(hf->rope.factor) && hf->rope.factor > 0, "rope factor");
  DUO_CHECK(std::isfinite(hf->rope.attention_factor) && hf->rope.attention_factor > 0, "attention factor");
  return 0;
}
