// Large matrix products on a GPU, through cuBLASLt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "duo/dtype.h"
#include "duo/result.h"
#include "kernels/cuda/stream.h"

namespace duo {

/// out[t][o] = (accumulate ? out : 0) + scale * sum_i x[t][i] w[o][i].
struct CudaProduct {
  /// The type of x and w: floats, bf16 numbers or int8 numbers. Their sums and out are float, or int32 with kInt8.
  ComputeType type = ComputeType::kBF16;
  const void* x = nullptr;  // [n_tokens, n_in], or [n_in, n_tokens] if x_transposed
  int64_t x_stride = 0;     // elements between rows as they lie in memory; 0: no gaps; also for w and out
  bool x_transposed = false;
  const void* w = nullptr;  // [n_out, n_in], or [n_in, n_out] if w_transposed
  int64_t w_stride = 0;
  bool w_transposed = false;
  int64_t n_tokens = 0;
  int64_t n_in = 0;
  int64_t n_out = 0;
  void* out = nullptr;  // [n_tokens, n_out]
  int64_t out_stride = 0;
  float scale = 1;  // always 1 for kInt8
  bool accumulate = false;

  int64_t StrideOfX() const { return x_stride != 0 ? x_stride : x_transposed ? n_tokens : n_in; }
  int64_t StrideOfW() const { return w_stride != 0 ? w_stride : w_transposed ? n_out : n_in; }
  int64_t StrideOfOut() const { return out_stride != 0 ? out_stride : n_out; }
};

class CudaMatmul {
 public:
  virtual ~CudaMatmul() = default;
  /// Queues the product. kInternal with the library's reason.
  virtual Status Run(const CudaProduct& p) = 0;
  /// Whether the library is the better choice for this shape; for int8, whether it supports it. Rows must begin at
  /// multiples of 16 bytes.
  static bool Takes(ComputeType type, int64_t n_in, int64_t out_stride) {
    const int64_t per_16_bytes = type == ComputeType::kInt8 ? 16 : type == ComputeType::kBF16 ? 8 : 4;
    return n_in % per_16_bytes == 0 && out_stride % 4 == 0;
  }
  /// Bytes of device memory that one CudaMatmul holds.
  static size_t WorkspaceBytes();
  /// A product of square matrices with this many rows runs at the full speed of products.
  static int64_t FullSpeedSize();
};

/// kResourceExhausted, kInternal.
Result<std::unique_ptr<CudaMatmul>> CreateCudaMatmul(CudaStream stream);

}  // namespace duo
