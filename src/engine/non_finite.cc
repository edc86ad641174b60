#include "engine/non_finite.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "base/finite.h"

namespace duo {
namespace {

// Enough tokens to reproduce the fault of a token or a weight, and few enough to cost no more than a short prompt.
constexpr size_t kMaxTokens = 64;

/// Where the states of `ids`, run without other tokens, become NaN or infinite. Empty when they stay finite, or when
/// there is not enough memory to run them.
std::string FirstPlace(const Model::Weights& weights, Transformer* transformer, SequenceState state, KvType kv_type,
                       std::span<const int32_t> ids) {
  const ModelConfig& c = weights.config;
  const auto n = std::ssize(ids);
  KvLayout layout;
  layout.heads = AllRetrieval(c.n_layers, c.n_kv_heads);
  layout.head_dim = c.head_dim;
  layout.type = kv_type;
  layout.capacity = n;
  Result<SplitKvCache> cache = SplitKvCache::Create(weights.backend, layout);
  if (!cache.ok() || !cache->Begin(n).ok()) return "";
  state.cache = &*cache;
  Activations* act = state.activations;
  std::vector<float> host(std::max(n * c.hidden_size, c.vocab_size));
  const auto states_are_finite = [&] {
    const std::span<float> x = std::span(host).first(n * c.hidden_size);
    return weights.backend->ToHost(act->x, x.data(), x.size_bytes()).ok() && AllFinite(x);
  };
  transformer->Embed(ids, 0, act);
  if (!states_are_finite()) return "from the embedding of the tokens on";
  for (int layer = 0; layer < c.n_layers; ++layer) {
    if (!transformer->RunLayer(layer, TokenKind::kPrompt, act->x, state).ok()) return "";
    if (!states_are_finite()) return fmt::format("from layer {} (of 0..{}) on", layer, c.n_layers - 1);
  }
  const std::span<float> row = std::span(host).first(c.vocab_size);
  const Status read = transformer->Logits(*act, n - 1, 1, row.data());
  return !read.ok() || AllFinite(row) ? "" : "from the final norm and the output matrix on";
}

}  // namespace

Status NonFiniteLogits(const Model::Weights& weights, Transformer* transformer, const SequenceState& scratch,
                       KvType kv_type, std::span<const int32_t> tokens) {
  const size_t n = std::min({tokens.size(), kMaxTokens, static_cast<size_t>(scratch.activations->max_tokens)});
  const std::string place = n == 0 ? "" : FirstPlace(weights, transformer, scratch, kv_type, tokens.last(n));
  return Internal(
      "model {}: the logits after {} tokens are NaN or infinite{}; its weights are damaged, or their products "
      "overflow: "
      "compare its files with their source",
      weights.config.name, tokens.size(), place.empty() ? "" : ", " + place);
}

}  // namespace duo
