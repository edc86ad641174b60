// What finding heads needs beyond Backend: the gradients of its operations with respect to their inputs (weights are
// frozen), the mix of two attention outputs, and how much attention keys receive. A backend offers them through
// Backend::identify_ops().
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"

namespace duo {

/// One product of a group that shared its input: out = x w^T.
struct LinearGradient {
  MatrixView weight;          // not quantised
  const float* dy = nullptr;  // [n_tokens, n_out]
};

/// Attention of all KV heads over one sequence from position 0, token-major as activations are.
struct AttentionGradient {
  const float* q = nullptr;      // [n_tokens, n_kv_heads * group, head_dim]
  const float* k = nullptr;      // [n_tokens, n_kv_heads, head_dim]
  const float* v = nullptr;      // [n_tokens, n_kv_heads, head_dim]
  const float* d_out = nullptr;  // as q
  int64_t n_tokens = 0;
  int n_kv_heads = 0;
  int group = 1;
  int head_dim = 0;
  float scale = 1.0f;
  LambdaMask mask;
  float* dq = nullptr;  // as q
  float* dk = nullptr;  // as k
  float* dv = nullptr;
};

/// Outputs of full and of streaming attention, [n_tokens, n_kv_heads, width] with width = group * head_dim.
struct HeadMix {
  int64_t n_tokens = 0;
  int n_kv_heads = 0;
  int64_t width = 0;
  std::span<const double> host_gates;  // [n_kv_heads]
  const float* full = nullptr;
  const float* streaming = nullptr;
};

/// Keys of all KV heads of a layer, and the queries that look at them, token-major as activations are.
struct KeyWeightTask {
  const float* q = nullptr;    // [n_tokens, n_kv_heads * group, head_dim]
  const float* lse = nullptr;  // [n_tokens, n_kv_heads * group] log of each query's sum over all its keys
  std::span<const uint8_t* const> host_keys;  // [n_kv_heads], each [n_keys, head_dim] in backend memory
  DType key_type = DType::kBF16;
  int64_t n_tokens = 0;
  int64_t n_keys = 0;
  int group = 1;
  int head_dim = 0;
  float scale = 1.0f;
};

/// The largest calls of one run.
struct GradientBounds {
  int64_t n_tokens = 1;
  int64_t widest_output = 0;  // elements of a LinearGradient's dy per token
  int group = 1;
  int head_dim = 0;
  LambdaMask mask;
  ComputeType compute = ComputeType::kBF16;
  DType weights = DType::kBF16;  // of the matrices
};

class IdentifyOps {
 public:
  virtual ~IdentifyOps() = default;

  /// Scratch held at most for calls within these bounds, for the memory plan.
  virtual uint64_t MaxScratchBytes(const GradientBounds& bounds) const = 0;

  /// And for LargestKeyWeights with up to so many queries' tokens and keys.
  virtual uint64_t KeyWeightScratchBytes(int64_t n_tokens, int64_t n_keys, int n_heads, int head_dim) const = 0;

  /// dx = sum over the tasks of dy w, [n_tokens, n_in]. Inputs are rounded to bf16 where `compute` asks for it, as in
  /// Backend::Linear. kResourceExhausted, kInternal.
  virtual Status Linear(ComputeType compute, int64_t n_tokens, std::span<const LinearGradient> tasks, float* dx) = 0;
  /// In place: dy becomes dx. Rows of `dim` floats, contiguous.
  virtual void RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* dy) = 0;
  /// gate becomes dgate, up becomes dup.
  virtual void SwiGlu(const float* dh, float* gate, float* up, int64_t n) = 0;
  /// kResourceExhausted.
  virtual Status Attention(const AttentionGradient& a) = 0;
  /// x += y.
  virtual void Add(float* x, const float* y, int64_t n) = 0;
  /// out = gate * full + (1 - gate) * streaming (DuoAttention equation 3); out may be mix.streaming.
  virtual void Mix(const HeadMix& mix, float* out) = 0;
  /// d_out becomes the gradient of mix.streaming; that of the gates is added to host_gate_gradients [n_kv_heads].
  virtual void MixGradient(const HeadMix& mix, float* d_out, std::span<double> host_gate_gradients) = 0;
  /// host_largest[h] = max(host_largest[h], the largest softmax weight that a key of KV head h receives from any
  /// query). kResourceExhausted.
  virtual Status LargestKeyWeights(const KeyWeightTask& task, std::span<double> host_largest) = 0;
};

}  // namespace duo
