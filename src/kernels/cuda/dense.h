// Element-wise work, norms and rounding on a GPU: the operations of kernels/dense.h, on device memory. Everything is
// queued on `stream`; what is returned is whether it could be.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/matrix_view.h"
#include "duo/result.h"

struct CUstream_st;

namespace duo {

using CudaStream = CUstream_st*;

/// out[t] = table[ids[t]] (times its row's scale); not int4. out: [n, table.n_in].
Status CudaEmbed(CudaStream stream, const MatrixView& table, const int32_t* ids, int64_t n, float* out);

/// Rows of `dim` floats, contiguous; in place allowed.
Status CudaRmsNorm(CudaStream stream, const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim,
                   float* out);

/// x: [n_tokens, n_heads, head_dim], in place; cos, sin: [n_tokens, head_dim / 2].
Status CudaRope(CudaStream stream, float* x, int64_t n_tokens, int n_heads, int head_dim, const float* cos,
                const float* sin);

/// gate = silu(gate) * up.
Status CudaSwiGlu(CudaStream stream, float* gate, const float* up, int64_t n);

/// out: bf16.
Status CudaRoundToBf16(CudaStream stream, const float* x, int64_t n, uint16_t* out);

/// Of each row: out = nearest to x / scale, scale = max |x| / 127 (kernels/weight_codes.h). grid, if not null:
/// out * scale as floats, and out may be null.
Status CudaQuantizeInt8(CudaStream stream, const float* x, int64_t n_rows, int64_t dim, int8_t* out, float* scale,
                        float* grid);

/// out[t][o] = (accumulate ? out : 0) + bias[o] + sums[t][o] * x_scale[t] * w_scale[o].
struct CudaScaledSums {
  const int32_t* sums = nullptr;  // [n_tokens, n_out]
  const float* x_scale = nullptr;
  const float* w_scale = nullptr;
  const float* bias = nullptr;  // or null
  int64_t n_tokens = 0;
  int64_t n_out = 0;
  float* out = nullptr;
  int64_t accumulate = 0;  // 0 or 1
};
Status CudaScaleSums(CudaStream stream, const CudaScaledSums& s);

/// out[t] += bias, or = bias.
Status CudaAddBias(CudaStream stream, const float* bias, int64_t n_tokens, int64_t n_out, bool accumulate, float* out);

/// Rows [row_begin, row_end) of any matrix as bf16 or floats, contiguous; row_begin of int4 is a multiple of 16.
Status CudaWidenRows(CudaStream stream, const MatrixView& w, int64_t row_begin, int64_t row_end, uint16_t* out);
Status CudaWidenRows(CudaStream stream, const MatrixView& w, int64_t row_begin, int64_t row_end, float* out);

/// Matrices of another type than a product's are widened some rows at a time: those of about 64 MiB, whole blocks of
/// int4.
constexpr size_t kCudaPanelBytes = size_t{64} << 20;
inline int64_t CudaPanelRows(size_t row_bytes) {
  return std::max<int64_t>(kInt4Rows, static_cast<int64_t>(kCudaPanelBytes / row_bytes) / kInt4Rows * kInt4Rows);
}

/// y[t][o] = (accumulate ? y : 0) + bias[o] + sum_i w[o][i] x[t][i], each weight read once for up to 8 tokens.
struct CudaGemvTask {
  MatrixView w;
  const float* bias = nullptr;  // [n_out] or null
  float* y = nullptr;           // [n_tokens, n_out]
  bool accumulate = false;
};
/// Tasks that share x; of neighbours with weights of one type up to three run in one launch.
struct CudaGemv {
  std::span<const CudaGemvTask> tasks;
  const float* x = nullptr;  // [n_tokens, n_in]
  int64_t n_tokens = 1;
  bool round_x = false;  // to bf16 first
};
Status RunCudaGemv(CudaStream stream, const CudaGemv& g);

}  // namespace duo
