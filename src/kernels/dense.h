// Parameters of products, norms and element-wise work. All but Gemm are work for one thread. The structs are plain old
// data, so instruction-set specific files may include this header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/dtype.h"

namespace duo {

/// y[t][o] = (accumulate ? y[t][o] : 0) + bias[o] + sum_i w[o][i] x[t][i] for o in [row_begin, row_end), for one token
/// or a few. Reads each weight from memory once. A token's result does not depend on the other tokens.
struct Gemv {
  const void* w = nullptr;         // [n_out, n_in] w_type, row-major (as checkpoints store linear layers)
  DType w_type = DType::kBF16;     // kF32, kBF16, kF16 or kI8
  const float* w_scale = nullptr;  // [n_out]: a kI8 weight is scale * number; null for other types
  int64_t n_in = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  const float* x = nullptr;  // [n_tokens, n_in]; already rounded to bf16 where the compute type is bf16
  int64_t n_tokens = 1;
  const float* bias = nullptr;  // [n_out] or null
  float* y = nullptr;           // token t: y + t * y_stride
  int64_t y_stride = 0;         // floats
  int accumulate = 0;           // 0 or 1
};

/// y[o] = (accumulate ? y[o] : 0) + bias[o] + sum_i w[o][i] x[i] over int4 weights (weight_codes.h).
struct Gemv4 {
  const uint8_t* w = nullptr;  // blocks of 16 outputs
  int64_t n_in = 0;
  int64_t row_begin = 0;        // a multiple of 16
  int64_t row_end = 0;          // a multiple of 16, or n_out
  const void* x = nullptr;      // written by `prepare` of the same table
  const float* bias = nullptr;  // [n_out] or null
  float* y = nullptr;           // [n_out]
  int accumulate = 0;           // 0 or 1
};

/// Products with int4 weights, and the preparation of x for them.
struct Gemv4Kernels {
  /// x [n_in] -> out, Gemv4PreparedBytes(n_in), 64-byte aligned.
  void (*prepare)(const float* x, int64_t n_in, void* out);
  void (*run)(const Gemv4&);
};
static inline constexpr size_t Gemv4PreparedBytes(int64_t n_in) {
  return static_cast<size_t>((n_in + 63) / 64) * (64 * 4 + 64);
}

/// Like Gemv over int8 weights, but with inputs rounded to 15 bits per group of kGemv8Group. Meant for a few tokens,
/// where products of floats would take longer than reading the weights.
struct Gemv8 {
  const int8_t* w = nullptr;       // [n_out, n_in]
  const float* w_scale = nullptr;  // [n_out]
  int64_t n_in = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  const void* x = nullptr;  // written by `prepare`, tokens Gemv8PreparedBytes(n_in) apart
  int64_t n_tokens = 1;
  const float* bias = nullptr;  // [n_out] or null
  float* y = nullptr;           // token t: y + t * y_stride
  int64_t y_stride = 0;
  int accumulate = 0;  // 0 or 1
};

struct Gemv8Kernels {
  /// x [n_in] -> out, Gemv8PreparedBytes(n_in), 64-byte aligned.
  void (*prepare)(const float* x, int64_t n_in, void* out);
  void (*run)(const Gemv8&);  // null where the instruction set gains nothing over Gemv
};
static inline constexpr int64_t kGemv8Group = 256;
static inline constexpr size_t Gemv8PreparedBytes(int64_t n_in) {
  return static_cast<size_t>((n_in + kGemv8Group - 1) / kGemv8Group) * (kGemv8Group * 2 + 64);
}

/// How a product's weights lie in memory, row-major.
enum class WeightLayout : uint8_t {
  kOutIn,  // [n_out, n_in]: a linear layer of a checkpoint, forward
  kInOut,  // [n_in, n_out]: the same matrix in the gradient of its input, where inputs and outputs are exchanged
};

/// out[t][o] = (accumulate ? out[t][o] : 0) + bias[o] + sum_i x[t][i] w[o][i]   (w[i][o] for kInOut)
struct Gemm {
  const void* x = nullptr;  // [n_tokens, n_in] x_type (kF32, kBF16 or kI8), row-major
  // kBF16 products are bf16 x bf16 -> f32, kF32 products are of floats, kI8 products are int8 x int8 -> s32.
  DType x_type = DType::kBF16;
  const float* x_scale = nullptr;  // [n_tokens], kI8 only: an input is scale * number
  int64_t n_tokens = 0;
  int64_t n_in = 0;
  const void* w = nullptr;         // w_layout, w_type; kU8 means int4 blocks (weight_codes.h)
  DType w_type = DType::kBF16;     // if it differs from x_type, each task first converts its block into a small scratch
  const float* w_scale = nullptr;  // [n_out], kI8 only: a weight is scale * number
  WeightLayout w_layout = WeightLayout::kOutIn;
  int64_t n_out = 0;
  const float* bias = nullptr;  // [n_out] or null
  float* out = nullptr;         // token t: out + t * out_stride
  int64_t out_stride = 0;       // floats, >= n_out
  bool accumulate = false;
};

/// Rows of RMSNorm: out[r][i] = x[r][i] / sqrt(mean_i(x[r]^2) + eps) * weight[i] (arXiv:1910.07467). out may be x.
struct RmsNorm {
  const float* x = nullptr;  // row r starts at x + r * x_stride
  int64_t x_stride = 0;
  const float* weight = nullptr;  // [dim]
  float eps = 1e-5f;
  int64_t n_rows = 0;
  int64_t dim = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
};

/// Rotary embedding in place (arXiv:2104.09864), in Hugging Face's rotate-half convention: dimension d pairs with d +
/// h, h = head_dim/2. x'[d] = x[d] c - x[d+h] s; x'[d+h] = x[d+h] c + x[d] s.
struct Rope {
  float* x = nullptr;  // token t, head g: x + t * x_stride + g * head_dim
  int64_t x_stride = 0;
  int64_t n_tokens = 0;
  int n_heads = 0;
  int head_dim = 0;
  const float* cos = nullptr;  // [n_tokens, head_dim/2]
  const float* sin = nullptr;  // [n_tokens, head_dim/2]
};

/// out[i] = silu(gate[i]) * up[i] (arXiv:2002.05202).
struct SwiGlu {
  const float* gate = nullptr;  // [n]
  const float* up = nullptr;    // [n]
  int64_t n = 0;
  float* out = nullptr;  // [n], may be gate or up
};

}  // namespace duo
