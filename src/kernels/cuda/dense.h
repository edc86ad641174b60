// Element-wise work, norms and rounding on a GPU: the operations of kernels/dense.h, on device memory. Everything is
// queued on `stream`. The returned Status says whether that succeeded.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/matrix_view.h"
#include "duo/result.h"
#include "kernels/cuda/stream.h"

namespace duo {

/// out[t] = table[ids[t]] (times its row's scale). The table must not be int4. out: [n, table.n_in].
Status CudaEmbed(CudaStream stream, const MatrixView& table, const int32_t* ids, int64_t n, float* out);

/// Rows of activations, [n_rows, dim]. The values made from them are RMSNorm(x), silu(x) * up, or x itself.
struct CudaRows {
  const float* x = nullptr;
  int64_t n_rows = 0;
  int64_t dim = 0;
  const float* norm = nullptr;  // [dim] weights of an RMSNorm, or null
  const float* up = nullptr;    // [n_rows, dim], or null
  float eps = 0, unused = 0;
};
/// The outputs, each [n_rows, dim] or null. One or several may be set.
struct CudaRowsOut {
  float* floats = nullptr;      // may be x
  uint16_t* rounded = nullptr;  // bf16
  // The integers nearest to value / scale, with scale = max |value| / 127 of the row (kernels/weight_codes.h).
  int8_t* codes = nullptr;
  float* scale = nullptr;  // [n_rows]
  float* grid = nullptr;   // codes * scale
};
/// Reads x from memory once, whatever the outputs.
Status CudaMakeRows(CudaStream stream, const CudaRows& rows, const CudaRowsOut& out);

/// Rotates q [n_tokens, n_heads, head_dim] and k [n_tokens, n_kv_heads, head_dim] in place, in one launch.
struct CudaRope {
  float* q = nullptr;
  float* k = nullptr;
  int64_t n_tokens = 0;
  int32_t n_heads = 0;     // of q
  int32_t n_kv_heads = 0;  // of k
  int64_t head_dim = 0;
  const float* cos = nullptr;  // [n_tokens, head_dim / 2]
  const float* sin = nullptr;  // [n_tokens, head_dim / 2]
};
Status RunCudaRope(CudaStream stream, const CudaRope& rope);

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

/// out[t] = (accumulate ? out : 0) + bias.
struct CudaBias {
  const float* bias = nullptr;  // [n_out]
  int64_t n_tokens = 0;
  int64_t n_out = 0;
  float* out = nullptr;
  int64_t accumulate = 0;  // 0 or 1
};
Status CudaAddBias(CudaStream stream, const CudaBias& b);

/// Writes rows [row_begin, row_end) of any matrix as bf16 or floats, contiguously. For int4 row_begin is a multiple
/// of 16.
Status CudaWidenRows(CudaStream stream, const MatrixView& w, int64_t row_begin, int64_t row_end, uint16_t* out);
Status CudaWidenRows(CudaStream stream, const MatrixView& w, int64_t row_begin, int64_t row_end, float* out);

/// A matrix whose type differs from the product's is widened some rows at a time: rows of about 64 MiB, in whole blocks
/// of int4.
constexpr size_t kCudaPanelBytes = size_t{64} << 20;
inline int64_t CudaPanelRows(size_t row_bytes) {
  return std::max<int64_t>(kInt4Rows, static_cast<int64_t>(kCudaPanelBytes / row_bytes) / kInt4Rows * kInt4Rows);
}

/// y[t][o] = (accumulate ? y : 0) + bias[o] + sum_i w[o][i] x[t][i]. Each weight is read once for up to 8 tokens.
struct CudaGemvTask {
  MatrixView w;
  const float* bias = nullptr;  // [n_out] or null
  float* y = nullptr;           // [n_tokens, n_out]
  bool accumulate = false;
};
/// Tasks that share x. Up to three neighbouring tasks with the same type of weights run in one launch.
struct CudaGemv {
  std::span<const CudaGemvTask> tasks;
  const float* x = nullptr;  // [n_tokens, n_in]
  int64_t n_tokens = 1;
  bool round_x = false;  // round x to bf16 first
};
Status RunCudaGemv(CudaStream stream, const CudaGemv& g);

}  // namespace duo
