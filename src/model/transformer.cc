#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/error.h"

namespace duo {

Status CheckTokenIds(std::span<const int32_t> ids, int64_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return InvalidArgument("token {}: id {} is not in the vocabulary 0..{}", i, ids[i], vocab_size - 1);
  }
  return OkStatus();
}

// Angles are computed in double. At position 10^6 a float angle would be wrong by 0.03 radians.
void Transformer::FillRope(std::span<const int64_t> positions) {
  const std::vector<double>& inv_freq = w_.config.inv_freq;
  const size_t half = inv_freq.size();
  cos_.resize(positions.size() * half);
  sin_.resize(positions.size() * half);
  for (size_t t = 0; t < positions.size(); ++t) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(positions[t]) * inv_freq[i];
      cos_[t * half + i] = static_cast<float>(std::cos(angle) * w_.config.rope_amplitude);
      sin_[t * half + i] = static_cast<float>(std::sin(angle) * w_.config.rope_amplitude);
    }
  }
}

Status Transformer::RunLayer(int layer, TokenKind kind, float* x, const SequenceState& state, const LayerHooks& hooks) {
  Activations* act = state.activations;
  AttentionInput input = InputOfAttention(kind, *act);
  const auto after = [&](LayerStep step) { return hooks.after ? hooks.after(layer, step) : OkStatus(); };
  DUO_RETURN_IF_ERROR(QkvProjection(layer, x, hooks, act));
  DUO_RETURN_IF_ERROR(after(LayerStep::kQkvProjection));
  QkNorm(layer, act);
  DUO_RETURN_IF_ERROR(after(LayerStep::kQkNorm));
  Rope(act);
  DUO_RETURN_IF_ERROR(after(LayerStep::kRope));
  DUO_RETURN_IF_ERROR(Attention(layer, state, hooks, &input));
  DUO_RETURN_IF_ERROR(after(LayerStep::kAttention));
  DUO_RETURN_IF_ERROR(OutputProjection(layer, input.out, *act, x));
  DUO_RETURN_IF_ERROR(after(LayerStep::kOutputProjection));
  DUO_RETURN_IF_ERROR(GateUp(layer, x, hooks, act));
  DUO_RETURN_IF_ERROR(after(LayerStep::kGateUp));
  if (hooks.skip_down) return OkStatus();
  DUO_RETURN_IF_ERROR(Down(layer, hooks, *act, x));
  return after(LayerStep::kDown);
}

Status Transformer::RunLayers(TokenKind kind, const SequenceState& state, const LayerHooks& hooks) {
  for (int layer = 0; layer < w_.config.n_layers; ++layer) {
    w_.backend->BeginLayer(layer);
    const Status run = RunLayer(layer, kind, state.activations->x, state, hooks);
    const Status ended = w_.backend->EndLayer();
    DUO_RETURN_IF_ERROR(run);
    DUO_RETURN_IF_ERROR(ended);
  }
  return OkStatus();
}

Status Transformer::Forward(std::span<const int32_t> ids, TokenKind kind, const SequenceState& state) {
  const auto n = std::ssize(ids);
  DUO_RETURN_IF_ERROR(state.cache->Begin(n));
  Embed(ids, state.cache->len(), state.activations);
  DUO_RETURN_IF_ERROR(RunLayers(kind, state, {}));
  state.cache->Advance(n);
  return OkStatus();
}

Status Transformer::ForwardTogether(std::span<const int32_t> ids, std::span<SplitKvCache* const> caches,
                                    DuoAttention* attention, Activations* act) {
  DUO_CHECK(ids.size() == caches.size(), "one token for each sequence");
  positions_.clear();
  for (SplitKvCache* cache : caches) {
    DUO_RETURN_IF_ERROR(cache->Begin(1));
    positions_.push_back(cache->len());
  }
  EmbedAt(ids, positions_, act);
  LayerHooks hooks;
  hooks.attend = [&](int layer, AttentionInput* input) { return attention->RunTogether(*input, layer, caches); };
  DUO_RETURN_IF_ERROR(RunLayers(TokenKind::kGenerated, {.activations = act}, hooks));
  for (SplitKvCache* cache : caches) cache->Advance(1);
  return OkStatus();
}

void Transformer::Embed(std::span<const int32_t> ids, int64_t pos, Activations* act) {
  positions_.resize(ids.size());
  std::iota(positions_.begin(), positions_.end(), pos);
  EmbedAt(ids, positions_, act);
}

void Transformer::EmbedAt(std::span<const int32_t> ids, std::span<const int64_t> positions, Activations* act) {
  const auto n = std::ssize(ids);
  DUO_CHECK(n >= 1 && n <= act->max_tokens, "a chunk must fit the activations");
  act->n_tokens = n;
  FillRope(positions);
  w_.backend->SetRotations(cos_.data(), sin_.data(), n, w_.config.head_dim / 2);
  w_.backend->Embed(w_.embedding, ids, act->x);
}

ProductInput Transformer::Normed(const float* weight, const float* x, int64_t n, const Activations& act) const {
  return {.x = x,
          .n_tokens = n,
          .n_in = w_.config.hidden_size,
          .norm = weight,
          .eps = w_.config.rms_norm_eps,
          .prepared = act.normed};
}

Status Transformer::QkvProjection(int layer, const float* x, const LayerHooks& hooks, Activations* act) {
  const LayerWeights& w = w_.layers[layer];
  ProductInput input = Normed(w.attention_norm, x, act->n_tokens, *act);
  input.keep_prepared = hooks.keep_prepared;
  const LinearTask tasks[] = {
      {w.q, w.q_bias, act->q, false}, {w.k, w.k_bias, act->k, false}, {w.v, w.v_bias, act->v, false}};
  return w_.backend->Linear(compute_, input, tasks);
}

void Transformer::QkNorm(int layer, Activations* act) {
  const ModelConfig& c = w_.config;
  const LayerWeights& w = w_.layers[layer];
  if (!c.qk_norm) return;
  w_.backend->RmsNorm(act->q, w.q_norm, c.rms_norm_eps, act->n_tokens * c.n_heads, c.head_dim, act->q);
  w_.backend->RmsNorm(act->k, w.k_norm, c.rms_norm_eps, act->n_tokens * c.n_kv_heads, c.head_dim, act->k);
}

void Transformer::Rope(Activations* act) {
  const ModelConfig& c = w_.config;
  w_.backend->Rope(act->q, c.n_heads, act->k, c.n_kv_heads, act->n_tokens, c.head_dim);
}

AttentionInput Transformer::InputOfAttention(TokenKind kind, const Activations& act) const {
  const ModelConfig& c = w_.config;
  return {.q = act.q,
          .k = act.k,
          .v = act.v,
          .n_tokens = act.n_tokens,
          .group = c.group(),
          .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
          .kind = kind,
          .compute = compute_,
          .out = act.attended,
          .lse = nullptr};
}

Status Transformer::Attention(int layer, const SequenceState& state, const LayerHooks& hooks, AttentionInput* input) {
  if (hooks.attend) return hooks.attend(layer, input);
  return state.attention->Run(*input, layer, state.cache);
}

Status Transformer::OutputProjection(int layer, const float* attended, const Activations& act, float* x) {
  const LayerWeights& w = w_.layers[layer];
  const LinearTask tasks[] = {{w.o, w.o_bias, x, true}};
  return w_.backend->Linear(compute_, {.x = attended, .n_tokens = act.n_tokens, .n_in = w.o.n_in}, tasks);
}

Status Transformer::GateUp(int layer, const float* x, const LayerHooks& hooks, Activations* act) {
  const LayerWeights& w = w_.layers[layer];
  ProductInput input = Normed(w.mlp_norm, x, act->n_tokens, *act);
  input.keep_prepared = hooks.keep_prepared;
  const LinearTask tasks[] = {{w.gate, w.gate_bias, act->gate, false}, {w.up, w.up_bias, act->up, false}};
  return w_.backend->Linear(compute_, input, tasks);
}

Status Transformer::Down(int layer, const LayerHooks& hooks, const Activations& act, float* x) {
  const LayerWeights& w = w_.layers[layer];
  const LinearTask tasks[] = {{w.down, w.down_bias, x, true}};
  return w_.backend->Linear(compute_,
                            {.x = act.gate,
                             .n_tokens = act.n_tokens,
                             .n_in = w_.config.intermediate_size,
                             .up = act.up,
                             .prepared = act.gate,
                             .keep_prepared = hooks.keep_prepared},
                            tasks);
}

Status Transformer::Hidden(const float* x, int64_t begin, int64_t n, const Activations& act, float* host_out) {
  const int64_t hidden = w_.config.hidden_size;
  w_.backend->RmsNorm(x + begin * hidden, w_.final_norm, w_.config.rms_norm_eps, n, hidden, act.normed);
  return w_.backend->ToHost(act.normed, host_out, n * hidden * sizeof(float));
}

Status Transformer::Logits(const Activations& act, int64_t begin, int64_t n, float* host_out) {
  const ModelConfig& c = w_.config;
  const int64_t rows = std::min(act.max_tokens, Activations::kLogitRows);
  for (int64_t done = 0; done < n; done += rows) {
    const int64_t now = std::min(rows, n - done);
    const LinearTask head[] = {{w_.lm_head, nullptr, act.logits, false}};
    const ProductInput input = Normed(w_.final_norm, act.x + (begin + done) * c.hidden_size, now, act);
    DUO_RETURN_IF_ERROR(w_.backend->Linear(compute_, input, head));
    DUO_RETURN_IF_ERROR(
        w_.backend->ToHost(act.logits, host_out + done * c.vocab_size, now * c.vocab_size * sizeof(float)));
  }
  return OkStatus();
}

}  // namespace duo
