// The elements that a thread has in element-wise work.
#pragma once

#include <algorithm>

#include "kernels/cuda/launch.h"

namespace duo {

constexpr int kElementThreads = 256;

/// Enough blocks for every multiprocessor. Threads cover the other elements in strides.
inline unsigned ElementGrid(int64_t n) {
  constexpr int64_t kMaxBlocks = 4096;
  return std::min<int64_t>((n + kElementThreads - 1) / kElementThreads, kMaxBlocks);
}
__device__ __forceinline__ int64_t FirstElement() { return int64_t{blockIdx.x} * kElementThreads + threadIdx.x; }
__device__ __forceinline__ int64_t ElementStride() { return int64_t{gridDim.x} * kElementThreads; }

}  // namespace duo
