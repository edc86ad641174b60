#include "model/transformer.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace duo {

// Angles in double: at position 10^6 a float angle is wrong by 0.03 radians.
void Transformer::FillRope(int64_t pos, int64_t n) {
  const std::vector<double>& inv_freq = w_.config.inv_freq;
  const size_t half = inv_freq.size();
  cos_.resize(static_cast<size_t>(n) * half);
  sin_.resize(static_cast<size_t>(n) * half);
  for (int64_t t = 0; t < n; ++t) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(pos + t) * inv_freq[i];
      cos_[static_cast<size_t>(t) * half + i] = static_cast<float>(std::cos(angle) * w_.config.rope_amplitude);
      sin_[static_cast<size_t>(t) * half + i] = static_cast<float>(std::sin(angle) * w_.config.rope_amplitude);
    }
  }
}

Status Transformer::Forward(std::span<const int32_t> ids, TokenKind kind, const SequenceState& state) {
  Activations* act = state.activations;
  const auto n = static_cast<int64_t>(ids.size());
  DUO_CHECK(n >= 1 && n <= act->max_tokens, "a chunk must fit the activations");
  act->n_tokens = n;
  DUO_RETURN_IF_ERROR(state.cache->Begin(n));
  FillRope(state.cache->len(), n);
  w_.backend->Embed(w_.embedding, ids, act->x);
  for (size_t i = 0; i < w_.layers.size(); ++i) {
    DUO_RETURN_IF_ERROR(AttentionBlock(w_.layers[i], static_cast<int>(i), kind, n, state));
    DUO_RETURN_IF_ERROR(MlpBlock(w_.layers[i], n, act));
  }
  state.cache->Advance(n);
  return OkStatus();
}

Status Transformer::AttentionBlock(const LayerWeights& layer, int index, TokenKind kind, int64_t n,
                                   const SequenceState& state) {
  Backend* backend = w_.backend;
  const ModelConfig& c = w_.config;
  Activations* act = state.activations;
  backend->RmsNorm(act->x, layer.attention_norm, c.rms_norm_eps, n, c.hidden_size, act->normed);
  const LinearTask project[] = {{layer.q, layer.q_bias, act->q, false},
                                {layer.k, layer.k_bias, act->k, false},
                                {layer.v, layer.v_bias, act->v, false}};
  DUO_RETURN_IF_ERROR(backend->Linear(compute_, act->normed, n, c.hidden_size, project));
  if (c.qk_norm) {
    backend->RmsNorm(act->q, layer.q_norm, c.rms_norm_eps, n * c.n_heads, c.head_dim, act->q);
    backend->RmsNorm(act->k, layer.k_norm, c.rms_norm_eps, n * c.n_kv_heads, c.head_dim, act->k);
  }
  backend->Rope(act->q, n, c.n_heads, c.head_dim, cos_.data(), sin_.data());
  backend->Rope(act->k, n, c.n_kv_heads, c.head_dim, cos_.data(), sin_.data());
  DUO_RETURN_IF_ERROR(state.attention->Run({.q = act->q,
                                            .k = act->k,
                                            .v = act->v,
                                            .n_tokens = n,
                                            .group = c.group(),
                                            .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                                            .kind = kind,
                                            .compute = compute_,
                                            .out = act->attended},
                                           index, state.cache));
  const LinearTask output[] = {{layer.o, layer.o_bias, act->x, true}};
  return backend->Linear(compute_, act->attended, n, static_cast<int64_t>(c.n_heads) * c.head_dim, output);
}

Status Transformer::MlpBlock(const LayerWeights& layer, int64_t n, Activations* act) {
  Backend* backend = w_.backend;
  const ModelConfig& c = w_.config;
  backend->RmsNorm(act->x, layer.mlp_norm, c.rms_norm_eps, n, c.hidden_size, act->normed);
  const LinearTask widen[] = {{layer.gate, layer.gate_bias, act->gate, false},
                              {layer.up, layer.up_bias, act->up, false}};
  DUO_RETURN_IF_ERROR(backend->Linear(compute_, act->normed, n, c.hidden_size, widen));
  backend->SwiGlu(act->gate, act->up, n * c.intermediate_size);
  const LinearTask narrow[] = {{layer.down, layer.down_bias, act->x, true}};
  return backend->Linear(compute_, act->gate, n, c.intermediate_size, narrow);
}

void Transformer::Hidden(const Activations& act, int64_t begin, int64_t n, float* host_out) {
  const int64_t hidden = w_.config.hidden_size;
  w_.backend->RmsNorm(act.x + begin * hidden, w_.final_norm, w_.config.rms_norm_eps, n, hidden, act.normed);
  w_.backend->ToHost(act.normed, host_out, static_cast<size_t>(n * hidden) * sizeof(float));
}

Status Transformer::Logits(const Activations& act, int64_t begin, int64_t n, float* host_out) {
  const ModelConfig& c = w_.config;
  const int64_t rows = std::min(act.max_tokens, Activations::kLogitRows);
  for (int64_t done = 0; done < n; done += rows) {
    const int64_t now = std::min(rows, n - done);
    w_.backend->RmsNorm(act.x + (begin + done) * c.hidden_size, w_.final_norm, c.rms_norm_eps, now, c.hidden_size,
                        act.normed);
    const LinearTask head[] = {{w_.lm_head, nullptr, act.logits, false}};
    DUO_RETURN_IF_ERROR(w_.backend->Linear(compute_, act.normed, now, c.hidden_size, head));
    w_.backend->ToHost(act.logits, host_out + done * c.vocab_size,
                       static_cast<size_t>(now * c.vocab_size) * sizeof(float));
  }
  return OkStatus();
}

}  // namespace duo
