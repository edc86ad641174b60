#include "duo/key_outliers.h"

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

/// The head of a layer with the largest ratio. Its ratio is 0 if no head has one. `keys` [kProbes, n_kv_heads,
/// head_dim].
KeyOutlier LargestOf(int layer, const ModelConfig& c, const std::vector<float>& keys) {
  const size_t head_dim = c.head_dim, token = c.kv_width();
  KeyOutlier worst;
  for (int head = 0; head < c.n_kv_heads; ++head) {
    const size_t first = head * head_dim;
    std::vector<double> sizes;
    for (size_t channel = first; channel < first + head_dim; ++channel) {
      double energy = 0;
      for (size_t at = channel; at < keys.size(); at += token) energy += double{keys[at]} * double{keys[at]};
      // nth_element cannot order NaN.
      sizes.push_back(std::isfinite(energy) ? std::sqrt(energy / kProbes) : std::numeric_limits<double>::infinity());
    }
    const auto middle = sizes.begin() + head_dim / 2;
    std::nth_element(sizes.begin(), middle, sizes.end());
    const KeyOutlier found{
        .layer = layer, .kv_head = head, .largest = *std::max_element(middle, sizes.end()), .others = *middle};
    if (!std::isfinite(found.largest)) continue;  // the engine refuses the results of such a model anyway
    if (found.ratio() > worst.ratio()) worst = found;
  }
  return worst;
}

}  // namespace

Result<KeyOutlier> LargestKeyOutlier(const Model& model) {
  const Model::Weights& w = model.weights();
  const ModelConfig& c = w.config;
  DUO_ASSIGN_OR_RETURN(const Activations act, Activations::Create(w.backend, c, kProbes));
  // Independent elements of size 1: the same size as after a norm.
  Rng rng(1);
  std::vector<float> inputs(kProbes * c.hidden_size);
  for (float& x : inputs) x = static_cast<float>(rng.Normal());
  w.backend->FromHost(inputs.data(), act.x, inputs.size() * sizeof(float));
  std::vector<float> keys(kProbes * c.kv_width());
  KeyOutlier worst;
  for (int layer = 0; layer < c.n_layers; ++layer) {
    const LayerWeights& l = w.layers[layer];
    const LinearTask tasks[] = {{l.k, l.k_bias, act.k, false}};
    const ProductInput input = {.x = act.x,
                                .n_tokens = kProbes,
                                .n_in = c.hidden_size,
                                .norm = l.attention_norm,
                                .eps = c.rms_norm_eps,
                                .prepared = act.normed};
    DUO_RETURN_IF_ERROR(w.backend->Linear(ComputeType::kF32, input, tasks));
    if (c.qk_norm) {
      w.backend->RmsNorm(act.k, l.k_norm, c.rms_norm_eps, kProbes * c.n_kv_heads, c.head_dim, act.k);
    }
    DUO_RETURN_IF_ERROR(w.backend->ToHost(act.k, keys.data(), keys.size() * sizeof(float)));
    const KeyOutlier found = LargestOf(layer, c, keys);
    if (found.ratio() > worst.ratio()) worst = found;
  }
  return worst;
}

double KeyOutlierLimit(KvType type) {
  switch (type) {
    case KvType::kInt8: return 50;
    case KvType::kInt4: return 8;
    case KvType::kF32:
    case KvType::kBF16: return 0;
  }
  return 0;
}

}  // namespace duo
