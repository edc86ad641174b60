// The gradient of the loss with respect to the gates, from the last layer to the first.
#include <cmath>

#include "identify/teacher_student_impl.h"
#include "kernels/attention_backward.h"

namespace duo {

Status TeacherStudent::Impl::BackwardLayer(int layer, std::span<const double> gates, std::span<double> gradients) {
  DUO_RETURN_IF_ERROR(Recompute(layer, gates));
  DUO_RETURN_IF_ERROR(MlpBackward(layer));
  return AttentionBackward(layer, gates, gradients);
}

// Repeats StudentLayer up to gate and up. act.attended keeps streaming attention alone.
Status TeacherStudent::Impl::Recompute(int layer, std::span<const double> gates) {
  CopyX(input(layer), At(x_mid));
  LayerHooks hooks;
  hooks.after = [&](int, LayerStep step) {
    if (step == LayerStep::kQkvProjection && c.qk_norm) KeepRawHeads();
    return OkStatus();
  };
  hooks.attend = [&](int, AttentionInput* attention) {
    DUO_RETURN_IF_ERROR(student.Attend(*attention));
    ops->Mix(MixOf(layer, gates, attention->out), At(mixed));
    attention->out = At(mixed);
    return OkStatus();
  };
  hooks.skip_down = true;
  return transformer.RunLayer(layer, TokenKind::kPrompt, At(x_mid), {.activations = &act}, hooks);
}

void TeacherStudent::Impl::KeepRawHeads() {
  CopyFloats(act.q, At(raw_q), n * c.q_width());
  CopyFloats(act.k, At(raw_k), n * c.kv_width());
}

// x_out = x_mid + down(silu(gate) * up), with gate and up of norm(x_mid). act.normed is no longer needed and takes
// gradients.
Status TeacherStudent::Impl::MlpBackward(int layer) {
  const LayerWeights& lw = w.layers[layer];
  const LinearGradient down[] = {{lw.down, At(dx)}};
  DUO_RETURN_IF_ERROR(ops->Linear(options.compute, n, down, At(dh)));
  ops->SwiGlu(At(dh), act.gate, act.up, n * c.intermediate_size);
  const LinearGradient gate_up[] = {{lw.gate, act.gate}, {lw.up, act.up}};
  DUO_RETURN_IF_ERROR(ops->Linear(options.compute, n, gate_up, act.normed));
  ops->RmsNorm(At(x_mid), lw.mlp_norm, c.rms_norm_eps, n, c.hidden_size, act.normed);
  ops->Add(At(dx), act.normed, n * c.hidden_size);
  return OkStatus();
}

// x_mid = x + o(mixed), mixed = gate * full + (1 - gate) * streaming(q, k, v), with q, k, v of norm(x).
Status TeacherStudent::Impl::AttentionBackward(int layer, std::span<const double> gates, std::span<double> gradients) {
  const LayerWeights& lw = w.layers[layer];
  const LinearGradient out[] = {{lw.o, At(dx)}};
  DUO_RETURN_IF_ERROR(ops->Linear(options.compute, n, out, At(mixed)));
  ops->MixGradient(MixOf(layer, gates, act.attended), At(mixed), gradients.subspan(layer * c.n_kv_heads, c.n_kv_heads));
  if (layer == 0) return OkStatus();  // no gate is below this point
  float* const dq = act.attended;     // streaming attention is no longer needed
  // Only the student's own q, k and v have a gradient: full attention is the teacher's and counts as a constant.
  const LambdaMask mask{student.cache.layout().sink, student.cache.layout().recent};
  DUO_RETURN_IF_ERROR(ops->Attention({.q = act.q,
                                      .k = act.k,
                                      .v = act.v,
                                      .d_out = At(mixed),
                                      .n_tokens = n,
                                      .n_kv_heads = c.n_kv_heads,
                                      .group = c.group(),
                                      .head_dim = c.head_dim,
                                      .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                                      .mask = mask,
                                      .dq = dq,
                                      .dk = At(dk),
                                      .dv = At(dv)}));
  // The gradient of a rotation is its transpose, which is the inverse rotation.
  const float* cos = transformer.rope_cos().data();
  backend->SetRotations(cos, minus_sin.data(), n, c.head_dim / 2);
  backend->Rope(dq, c.n_heads, At(dk), c.n_kv_heads, n, c.head_dim);
  backend->SetRotations(cos, transformer.rope_sin().data(), n, c.head_dim / 2);
  if (c.qk_norm) {
    // In place: the gradient after the norm becomes the one before it, which needs q and k as they were then.
    ops->RmsNorm(At(raw_q), lw.q_norm, c.rms_norm_eps, n * c.n_heads, c.head_dim, dq);
    ops->RmsNorm(At(raw_k), lw.k_norm, c.rms_norm_eps, n * c.n_kv_heads, c.head_dim, At(dk));
  }
  const LinearGradient qkv[] = {{lw.q, dq}, {lw.k, At(dk)}, {lw.v, At(dv)}};
  DUO_RETURN_IF_ERROR(ops->Linear(options.compute, n, qkv, act.normed));
  ops->RmsNorm(input(layer), lw.attention_norm, c.rms_norm_eps, n, c.hidden_size, act.normed);
  // x goes around attention as well, so dx keeps its value and gains this part.
  ops->Add(At(dx), act.normed, n * c.hidden_size);
  return OkStatus();
}

}  // namespace duo
