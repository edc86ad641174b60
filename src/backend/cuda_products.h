// Linear of the CUDA backend. It chooses between our kernels and the products of the library.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "backend/cuda_memory.h"
#include "kernels/cuda/matmul.h"

namespace duo {

/// Queues its work on the stream, which must also be the matmul's stream.
class CudaProducts {
 public:
  CudaProducts(CudaStream stream, CudaMatmul* matmul) : stream_(stream), matmul_(matmul) {}

  /// Implements Backend::Linear.
  Status Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks);
  /// Upper bound of the scratch held for calls within these bounds.
  static uint64_t MaxScratchBytes(const CallBounds& bounds);

 private:
  Status LinearFewTokens(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks);
  Status LinearInt8(const ProductInput& input, std::span<const LinearTask> tasks);
  /// Multiplies x [n_tokens, n_in] and weights as T, which is bf16 or float.
  template <class T>
  Status LinearFloats(ComputeType type, const T* x, int64_t n_tokens, int64_t n_in, std::span<const LinearTask> tasks);

  CudaStream stream_;
  CudaMatmul* matmul_;
  CudaScratch rounded_{stream_};  // x in bf16 or int8, or floats that hold the values of int8 numbers
  CudaScratch panel_{stream_};    // weights as bf16 or floats
  CudaScratch sums_{stream_};     // int32 results
};

}  // namespace duo
