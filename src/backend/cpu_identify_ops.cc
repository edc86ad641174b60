#include "backend/cpu_identify_ops.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu_team.h"
#include "base/align.h"
#include "base/bf16.h"
#include "base/parallel.h"
#include "kernels/attention_backward.h"
#include "kernels/dense_backward.h"
#include "kernels/key_weights.h"

namespace duo {
namespace {

constexpr int64_t kMixTokens = 256;  // tokens in one partial sum of a gate's gradient

GateRows RowsOf(const HeadMix& mix, int64_t head, int64_t n_tokens) {
  return {.n_tokens = n_tokens,
          .width = mix.width,
          .stride = mix.n_kv_heads * mix.width,
          .gate = static_cast<float>(mix.host_gates[head])};
}

}  // namespace

uint64_t CpuIdentifyOps::MaxScratchBytes(const GradientBounds& b) const {
  const bool is_bf16 = b.compute == ComputeType::kBF16;
  const uint64_t rounded = is_bf16 ? b.n_tokens * b.widest_output * sizeof(bf16) : 0;
  const uint64_t blocks =
      AttentionBackwardScratchFloats(b.n_tokens, b.group, b.head_dim, b.mask) * sizeof(float) * n_threads_;
  return std::max(rounded, blocks) + GemmRunner::MaxScratchBytes(isa_, n_threads_, b.widest_output,
                                                                 is_bf16 ? DType::kBF16 : DType::kF32, b.weights,
                                                                 WeightLayout::kInOut);
}

Status CpuIdentifyOps::Linear(ComputeType compute, int64_t n_tokens, std::span<const LinearGradient> tasks, float* dx) {
  bool first = true;
  for (const LinearGradient& task : tasks) {
    const int64_t n_out = task.weight.n_out, n_in = task.weight.n_in, n = n_tokens * n_out;
    Gemm gemm{.x = task.dy, .x_type = DType::kF32, .n_tokens = n_tokens, .n_in = n_out};
    if (compute == ComputeType::kBF16) {
      DUO_ASSIGN_OR_RETURN(uint8_t * memory, scratch_.Get(n * sizeof(bf16)));
      auto* rounded = reinterpret_cast<bf16*>(memory);
      ParallelBlocks(n_threads_, n, kElementBlock, [&](int64_t begin, int64_t end) {
        dense_.f32_to_bf16(task.dy + begin, rounded + begin, end - begin);
      });
      gemm.x = rounded;
      gemm.x_type = DType::kBF16;
    }
    gemm.w = task.weight.data;
    gemm.w_type = task.weight.dtype;
    gemm.w_layout = WeightLayout::kInOut;
    gemm.n_out = n_in;
    gemm.out = dx;
    gemm.out_stride = n_in;
    gemm.accumulate = !first;
    DUO_RETURN_IF_ERROR(gemm_.Run(gemm));
    first = false;
  }
  return OkStatus();
}

void CpuIdentifyOps::RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* dy) {
  ParallelBlocks(n_threads_, n_rows, std::max<int64_t>(1, kElementBlock / dim), [&](int64_t begin, int64_t end) {
    RunRmsNormBackward({.x = x + begin * dim,
                        .weight = weight,
                        .eps = eps,
                        .n_rows = end - begin,
                        .dim = dim,
                        .dy = dy + begin * dim,
                        .dx = dy + begin * dim});
  });
}

void CpuIdentifyOps::SwiGlu(const float* dh, float* gate, float* up, int64_t n) {
  ParallelBlocks(n_threads_, n, kElementBlock, [&](int64_t begin, int64_t end) {
    dense_.swiglu_backward({.dh = dh + begin, .gate = gate + begin, .up = up + begin, .n = end - begin});
  });
}

// One thread per KV head. Neighbouring blocks share keys, so one thread adds their gradients in a fixed order.
Status CpuIdentifyOps::Attention(const AttentionGradient& a) {
  const size_t floats = AttentionBackwardScratchFloats(a.n_tokens, a.group, a.head_dim, a.mask);
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, scratch_.Get(floats * n_threads_ * sizeof(float)));
  auto* scratch = reinterpret_cast<float*>(memory);
  const int64_t q_width = int64_t{a.group} * a.head_dim;
  ParallelFor(n_threads_, a.n_kv_heads, [&](int64_t head, int thread) {
    RunAttentionBackward({.q = a.q + head * q_width,
                          .k = a.k + head * a.head_dim,
                          .v = a.v + head * a.head_dim,
                          .d_out = a.d_out + head * q_width,
                          .q_stride = a.n_kv_heads * q_width,
                          .kv_stride = int64_t{a.n_kv_heads} * a.head_dim,
                          .n_tokens = a.n_tokens,
                          .group = a.group,
                          .head_dim = a.head_dim,
                          .mask = a.mask,
                          .scale = a.scale,
                          .dq = a.dq + head * q_width,
                          .dk = a.dk + head * a.head_dim,
                          .dv = a.dv + head * a.head_dim,
                          .scratch = scratch + floats * thread},
                         dense_);
  });
  return OkStatus();
}

void CpuIdentifyOps::Add(float* x, const float* y, int64_t n) {
  ParallelBlocks(n_threads_, n, kElementBlock,
                 [&](int64_t begin, int64_t end) { dense_.add(x + begin, y + begin, end - begin); });
}

void CpuIdentifyOps::Mix(const HeadMix& mix, float* out) {
  const int64_t n_blocks = DivideUp(mix.n_tokens, kMixTokens);
  ParallelFor(n_threads_, n_blocks * mix.n_kv_heads, [&](int64_t task, int) {
    const int64_t head = task % mix.n_kv_heads, begin = task / mix.n_kv_heads * kMixTokens;
    const int64_t at = (begin * mix.n_kv_heads + head) * mix.width;
    MixByGate(RowsOf(mix, head, std::min(kMixTokens, mix.n_tokens - begin)), mix.full + at, mix.streaming + at,
              out + at);
  });
}

void CpuIdentifyOps::MixGradient(const HeadMix& mix, float* d_out, std::span<double> host_gate_gradients) {
  const int64_t n_blocks = DivideUp(mix.n_tokens, kMixTokens);
  std::vector<double> partial(n_blocks * mix.n_kv_heads);
  ParallelFor(n_threads_, n_blocks * mix.n_kv_heads, [&](int64_t task, int) {
    const int64_t head = task % mix.n_kv_heads, begin = task / mix.n_kv_heads * kMixTokens;
    const int64_t at = (begin * mix.n_kv_heads + head) * mix.width;
    partial[task] = MixByGateBackward(RowsOf(mix, head, std::min(kMixTokens, mix.n_tokens - begin)), mix.full + at,
                                      mix.streaming + at, d_out + at);
  });
  for (size_t i = 0; i < partial.size(); ++i) {
    host_gate_gradients[i % mix.n_kv_heads] += partial[i];
  }
}

uint64_t CpuIdentifyOps::KeyWeightScratchBytes(int64_t, int64_t, int, int head_dim) const {
  return KeyWeightsScratchFloats(head_dim) * n_threads_ * sizeof(float);
}

Status CpuIdentifyOps::LargestKeyWeights(const KeyWeightTask& t, std::span<double> host_largest) {
  constexpr int64_t kTokens = 128;  // tokens per piece of work; there are fewer heads than many machines have threads
  const auto n_heads = std::ssize(t.host_keys);
  const int64_t n_blocks = DivideUp(t.n_tokens, kTokens), width = int64_t{t.group} * t.head_dim;
  const size_t floats = KeyWeightsScratchFloats(t.head_dim);
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, scratch_.Get(KeyWeightScratchBytes(t.n_tokens, t.n_keys, 1, t.head_dim)));
  auto* scratch = reinterpret_cast<float*>(memory);
  std::vector<double> largest(n_blocks * n_heads);
  ParallelFor(n_threads_, n_blocks * n_heads, [&](int64_t task, int thread) {
    const int64_t head = task % n_heads, begin = task / n_heads * kTokens;
    largest[task] = LargestKeyWeight({.q = t.q + (begin * n_heads + head) * width,
                                      .q_stride = n_heads * width,
                                      .n_tokens = std::min(kTokens, t.n_tokens - begin),
                                      .group = t.group,
                                      .head_dim = t.head_dim,
                                      .k = t.host_keys[head],
                                      .key_type = t.key_type,
                                      .n_keys = t.n_keys,
                                      .scale = t.scale,
                                      .lse = t.lse + (begin * n_heads + head) * t.group,
                                      .lse_stride = n_heads * t.group,
                                      .scratch = scratch + floats * thread},
                                     dense_);
  });
  for (size_t i = 0; i < largest.size(); ++i) {
    double& most = host_largest[i % n_heads];
    most = std::isnan(most) || largest[i] <= most ? most : largest[i];  // keeps a NaN
  }
  return OkStatus();
}

}  // namespace duo
