// Linear of the CUDA backend: which kernels and which products of the library it is made of.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "backend/cuda_memory.h"
#include "kernels/cuda/matmul.h"

namespace duo {

inline CudaProductType CudaProductTypeOf(ComputeType compute) {
  switch (compute) {
    case ComputeType::kF32: return CudaProductType::kF32;
    case ComputeType::kBF16: return CudaProductType::kBF16;
    case ComputeType::kInt8: break;
  }
  return CudaProductType::kInt8;
}

/// Queued on the stream, which is also the matmul's.
class CudaProducts {
 public:
  CudaProducts(CudaStream stream, CudaMatmul* matmul) : stream_(stream), matmul_(matmul) {}

  /// Backend::Linear.
  Status Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks);
  /// Scratch held at most for calls within these bounds.
  static uint64_t MaxScratchBytes(const CallBounds& bounds);

 private:
  Status LinearFewTokens(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks);
  Status LinearInt8(const ProductInput& input, std::span<const LinearTask> tasks);
  /// x [n_tokens, n_in] and weights as T: bf16 or float.
  template <class T>
  Status LinearFloats(CudaProductType type, const T* x, int64_t n_tokens, int64_t n_in,
                      std::span<const LinearTask> tasks);

  CudaStream stream_;
  CudaMatmul* matmul_;
  CudaScratch rounded_{stream_};  // x in bf16, int8 or on int8's grid
  CudaScratch panel_{stream_};    // weights as bf16 or floats
  CudaScratch sums_{stream_};     // int32 results
};

}  // namespace duo
