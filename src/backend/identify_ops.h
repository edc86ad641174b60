// The operations that finding heads needs in addition to Backend's. They are the gradients of Backend's operations with
// respect to their inputs (weights are frozen), the mix of two attention outputs, and the attention that keys receive.
// A backend offers them through Backend::identify_ops().
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"

namespace duo {

/// The gradient of one product out = x w^T. The products of a group share their input x.
struct LinearGradient {
  MatrixView weight;          // not quantised
  const float* dy = nullptr;  // [n_tokens, n_out]
};

/// The gradient of attention of all KV heads over one sequence from position 0. Token-major, like the activations.
struct AttentionGradient {
  const float* q = nullptr;      // [n_tokens, n_kv_heads * group, head_dim]
  const float* k = nullptr;      // [n_tokens, n_kv_heads, head_dim]
  const float* v = nullptr;      // [n_tokens, n_kv_heads, head_dim]
  const float* d_out = nullptr;  // shape of q
  int64_t n_tokens = 0;
  int n_kv_heads = 0;
  int group = 1;
  int head_dim = 0;
  float scale = 1.0f;
  LambdaMask mask;
  float* dq = nullptr;  // shape of q
  float* dk = nullptr;  // shape of k
  float* dv = nullptr;  // shape of v
};

/// Outputs of full and of streaming attention. Both are [n_tokens, n_kv_heads, width] with width = group * head_dim.
struct HeadMix {
  int64_t n_tokens = 0;
  int n_kv_heads = 0;
  int64_t width = 0;
  std::span<const double> host_gates;  // [n_kv_heads]
  const float* full = nullptr;
  const float* streaming = nullptr;
};

/// Keys of all KV heads of a layer, and the queries that attend to them. Token-major, like the activations.
struct KeyWeightTask {
  const float* q = nullptr;    // [n_tokens, n_kv_heads * group, head_dim]
  const float* lse = nullptr;  // [n_tokens, n_kv_heads * group] log of each query's sum of exp(score) over all its keys
  std::span<const uint8_t* const> host_keys;  // [n_kv_heads], each [n_keys, head_dim] in backend memory
  DType key_type = DType::kBF16;
  int64_t n_tokens = 0;
  int64_t n_keys = 0;
  int group = 1;
  int head_dim = 0;
  float scale = 1.0f;
};

/// Upper bounds of the calls of one run.
struct GradientBounds {
  int64_t n_tokens = 1;
  int64_t widest_output = 0;  // elements of a LinearGradient's dy per token
  int group = 1;
  int head_dim = 0;
  LambdaMask mask;
  ComputeType compute = ComputeType::kBF16;
  DType weights = DType::kBF16;  // type of the matrices
};

class IdentifyOps {
 public:
  virtual ~IdentifyOps() = default;

  /// Upper bound of the scratch held for calls within these bounds. The memory plan needs it.
  virtual uint64_t MaxScratchBytes(const GradientBounds& bounds) const = 0;

  /// Upper bound of the scratch held for LargestKeyWeights with at most n_tokens tokens of queries and n_keys keys.
  virtual uint64_t KeyWeightScratchBytes(int64_t n_tokens, int64_t n_keys, int n_heads, int head_dim) const = 0;

  /// dx = sum over the tasks of dy w, [n_tokens, n_in]. Rounds inputs to bf16 where `compute` asks for it, as
  /// Backend::Linear does. kResourceExhausted, kInternal.
  virtual Status Linear(ComputeType compute, int64_t n_tokens, std::span<const LinearGradient> tasks, float* dx) = 0;
  /// In place: dy becomes dx. x, dy: contiguous rows of `dim` floats.
  virtual void RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* dy) = 0;
  /// In place: gate becomes dgate and up becomes dup.
  virtual void SwiGlu(const float* dh, float* gate, float* up, int64_t n) = 0;
  /// kResourceExhausted.
  virtual Status Attention(const AttentionGradient& a) = 0;
  /// x += y.
  virtual void Add(float* x, const float* y, int64_t n) = 0;
  /// out = gate * full + (1 - gate) * streaming (DuoAttention equation 3). out may be mix.streaming.
  virtual void Mix(const HeadMix& mix, float* out) = 0;
  /// d_out becomes the gradient of mix.streaming. The gradient of the gates is added to host_gate_gradients
  /// [n_kv_heads].
  virtual void MixGradient(const HeadMix& mix, float* d_out, std::span<double> host_gate_gradients) = 0;
  /// host_largest[h] = max(host_largest[h], w), where w is the largest softmax weight that any query gives to a key of
  /// KV head h. kResourceExhausted.
  virtual Status LargestKeyWeights(const KeyWeightTask& task, std::span<double> host_largest) = 0;
};

}  // namespace duo
