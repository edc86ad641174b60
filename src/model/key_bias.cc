#include "model/key_bias.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "model/activations.h"
#include "model/weights.h"

namespace duo {
namespace {

constexpr int64_t kProbes = 16;

/// The largest ratio of a layer's heads. `keys` [kProbes, n_kv_heads, head_dim], `bias` [n_kv_heads, head_dim].
KeyBias LargestOf(int layer, const ModelConfig& c, const std::vector<float>& keys, const std::vector<float>& bias) {
  const auto head_dim = static_cast<size_t>(c.head_dim);
  KeyBias worst;
  for (int head = 0; head < c.n_kv_heads; ++head) {
    const size_t first = static_cast<size_t>(head) * head_dim;
    KeyBias found{.layer = layer, .kv_head = head};
    std::vector<double> sizes;
    for (size_t channel = first; channel < first + head_dim; ++channel) {
      found.largest = std::max(found.largest, double{std::fabs(bias[channel])});
      double energy = 0;
      for (size_t at = channel; at < keys.size(); at += bias.size()) energy += double{keys[at]} * double{keys[at]};
      // NaN has no place in an order; a model that has one is refused by what it computes.
      sizes.push_back(std::isfinite(energy) ? std::sqrt(energy / kProbes) : std::numeric_limits<double>::infinity());
    }
    const auto middle = sizes.begin() + static_cast<std::ptrdiff_t>(head_dim / 2);
    std::nth_element(sizes.begin(), middle, sizes.end());
    found.others = *middle;
    if (head == 0 || found.ratio() > worst.ratio()) worst = found;
  }
  return worst;
}

}  // namespace

Result<std::optional<KeyBias>> LargestKeyBias(const Model& model) {
  const Model::Weights& w = model.weights();
  const ModelConfig& c = w.config;
  std::optional<KeyBias> worst;
  if (!c.qkv_bias) return worst;
  DUO_ASSIGN_OR_RETURN(const Activations act, Activations::Create(w.backend, c, kProbes));
  // Independent elements of size 1, which is how large a norm makes them.
  Rng rng(1);
  std::vector<float> inputs(static_cast<size_t>(kProbes * c.hidden_size));
  for (float& x : inputs) x = static_cast<float>(rng.Normal());
  w.backend->FromHost(inputs.data(), act.x, inputs.size() * sizeof(float));
  std::vector<float> bias(static_cast<size_t>(c.n_kv_heads) * static_cast<size_t>(c.head_dim));
  std::vector<float> keys(static_cast<size_t>(kProbes) * bias.size());
  for (int layer = 0; layer < c.n_layers; ++layer) {
    const LayerWeights& l = w.layers[static_cast<size_t>(layer)];
    const LinearTask tasks[] = {{l.k, l.k_bias, act.k, false}};
    const ProductInput input = {.x = act.x,
                                .n_tokens = kProbes,
                                .n_in = c.hidden_size,
                                .norm = l.attention_norm,
                                .eps = c.rms_norm_eps,
                                .made = act.normed};
    DUO_RETURN_IF_ERROR(w.backend->Linear(ComputeType::kF32, input, tasks));
    DUO_RETURN_IF_ERROR(w.backend->ToHost(act.k, keys.data(), keys.size() * sizeof(float)));
    DUO_RETURN_IF_ERROR(w.backend->ToHost(l.k_bias, bias.data(), bias.size() * sizeof(float)));
    const KeyBias found = LargestOf(layer, c, keys, bias);
    if (!worst || found.ratio() > worst->ratio()) worst = found;
  }
  return worst;
}

double KeyBiasLimit(KvType type) {
  switch (type) {
    case KvType::kInt8: return 50;
    case KvType::kInt4: return 8;
    case KvType::kF32:
    case KvType::kBF16: return 0;
  }
  return 0;
}

}  // namespace duo
