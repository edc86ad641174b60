// Gradients of the element-wise operations of dense.h and of softmax, and the mix of two attention outputs by a gate.
// All run on one thread. Operations without a function here are in the tables of cpu/dense/dense_kernels.h.
#pragma once

#include <cstdint>

namespace duo {

/// Forward y_i = w_i x_i r, r = 1 / sqrt(mean_j x_j^2 + eps):
///   dx_i = r w_i dy_i - x_i r^3 / dim sum_j w_j dy_j x_j.
/// Rows are contiguous. dx may be dy.
struct RmsNormBackward {
  const float* x = nullptr;       // [n_rows, dim]
  const float* weight = nullptr;  // [dim]
  float eps = 1e-5f;
  int64_t n_rows = 0;
  int64_t dim = 0;
  const float* dy = nullptr;  // [n_rows, dim]
  float* dx = nullptr;        // [n_rows, dim]
};
void RunRmsNormBackward(const RmsNormBackward& p);

/// Forward h = silu(gate) up, silu(g) = g s, s = 1 / (1 + exp(-g)):
///   dup = dh silu(gate),  dgate = dh up s (1 + gate (1 - s)).
/// Works in place: gate becomes dgate, and up becomes dup.
struct SwiGluBackward {
  const float* dh = nullptr;  // [n]
  float* gate = nullptr;      // [n]
  float* up = nullptr;        // [n]
  int64_t n = 0;
};

/// Forward p = softmax(s), out = p v. Works in place: the scores s become p, and dp = d_out v^T becomes
///   ds_j = scale p_j (dp_j - sum_i p_i dp_i).
/// Scores of -infinity have no weight. At least one score must be finite.
struct SoftmaxBackward {
  float* scores = nullptr;  // [n]
  float* dp = nullptr;      // [n]
  int64_t n = 0;
  float scale = 1.0f;
};

/// Tokens of one KV head's query group: rows of `width` floats (group * head_dim), `stride` floats apart.
struct GateRows {
  int64_t n_tokens = 0;
  int64_t width = 0;
  int64_t stride = 0;
  float gate = 1.0f;  // alpha in [0, 1] (DuoAttention section 2.2)
};

/// out = gate * full + (1 - gate) * streaming; out may be streaming.
void MixByGate(const GateRows& rows, const float* full, const float* streaming, float* out);

/// d_out becomes the gradient of streaming, (1 - gate) d_out. Returns the gradient of the gate,
/// sum d_out (full - streaming). `full` is a constant and has no gradient.
double MixByGateBackward(const GateRows& rows, const float* full, const float* streaming, float* d_out);

}  // namespace duo
