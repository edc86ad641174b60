// Arithmetic inside kernels: bf16 and half numbers, and reductions over a warp or a block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "duo/dtype.h"
#include "kernels/cuda/launch.h"

namespace duo {

constexpr float kLn2 = 0.693147180559945f, kLog2E = 1.44269504088896f;

/// Indices as signed numbers: of the thread in its block, of its warp in the block, and of the thread in its warp.
__device__ __forceinline__ int ThreadIndex() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int WarpIndex() { return ThreadIndex() / kWarp; }
__device__ __forceinline__ int LaneIndex() { return ThreadIndex() % kWarp; }

__device__ __forceinline__ float FloatOfBf16(uint32_t bits) { return __uint_as_float(bits << 16); }

/// The two bf16 numbers of a word: the lower half, or the upper half.
__device__ __forceinline__ float LowFloat(uint32_t word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float HighFloat(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }

/// The lower halves of both words, or the upper ones.
__device__ __forceinline__ uint32_t LowHalves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t HighHalves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

/// Rounded to nearest even.
__device__ __forceinline__ uint16_t Bf16OfFloat(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

__device__ __forceinline__ float FloatOfHalf(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

/// Element i of an array of plain numbers (not int4). A matrix's scale is not applied.
template <DType kType>
__device__ __forceinline__ float Element(const void* data, int64_t i) {
  if constexpr (kType == DType::kF32) return static_cast<const float*>(data)[i];
  if constexpr (kType == DType::kBF16) return FloatOfBf16(static_cast<const uint16_t*>(data)[i]);
  if constexpr (kType == DType::kF16) return FloatOfHalf(static_cast<const uint16_t*>(data)[i]);
  if constexpr (kType == DType::kI8) return static_cast<const int8_t*>(data)[i];
  return 0;
}

__device__ __forceinline__ float WarpSum(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kWholeWarp, x, step);
  return x;
}
__device__ __forceinline__ float WarpMax(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, step));
  return x;
}
__device__ __forceinline__ float WarpMin(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x = fminf(x, __shfl_xor_sync(kWholeWarp, x, step));
  return x;
}

/// Reduces over all threads of a block, which has at most 32 whole warps. Every thread gets the result. `shared`: [32]
/// floats, free again after the next barrier.
template <class Reduce>
__device__ __forceinline__ float BlockReduce(float x, float* shared, float neutral, const Reduce& reduce) {
  const int warp = WarpIndex(), lane = LaneIndex(), n_warps = static_cast<int>(blockDim.x) / kWarp;
  x = reduce(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = reduce(lane < n_warps ? shared[lane] : neutral);
  return x;
}

/// Runs the code with kType = type for matrix types that are plain numbers. Does nothing for int4.
#define DUO_FOR_DTYPE(type, ...)            \
  switch (type) {                           \
    case DType::kF32: {                     \
      constexpr DType kType = DType::kF32;  \
      __VA_ARGS__;                          \
      break;                                \
    }                                       \
    case DType::kBF16: {                    \
      constexpr DType kType = DType::kBF16; \
      __VA_ARGS__;                          \
      break;                                \
    }                                       \
    case DType::kF16: {                     \
      constexpr DType kType = DType::kF16;  \
      __VA_ARGS__;                          \
      break;                                \
    }                                       \
    case DType::kI8: {                      \
      constexpr DType kType = DType::kI8;   \
      __VA_ARGS__;                          \
      break;                                \
    }                                       \
    case DType::kU8: break;                 \
  }

}  // namespace duo
