// The partial states of a decode step's pieces, and how the last piece of a head to end merges them
// (kernels/softmax_state.h; flash-decoding).
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_math.cuh"

namespace duo {

constexpr int kMostDecodeHeads = 64;  // of a launch: they travel in its parameters
constexpr int kMergeQueries = 16;     // of a block

struct DecodeHeads {
  CudaDecodeHead head[kMostDecodeHeads];
  int32_t n_pieces[kMostDecodeHeads];
  int32_t first_piece[kMostDecodeHeads];
};

// Kernels' arguments have no padding, so that all of their bytes are what somebody wrote.
struct DecodeArgs {
  int group, head_dim;
  int64_t rows_per_piece;
  float scale, unused = 0;
  float* states;      // [pieces, group]: max, sum, acc [head_dim]
  int32_t* counters;  // [gridDim.y, gridDim.z]
};

/// Rows of piece `piece` of a head.
struct PieceRows {
  int64_t begin, end;
};
__device__ __forceinline__ PieceRows RowsOfPiece(const CudaDecodeHead& head, int64_t piece, int64_t rows_per_piece) {
  const int64_t in_first = (head.end[0] - head.begin[0] + rows_per_piece - 1) / rows_per_piece;
  const int range = piece < in_first ? 0 : 1;
  const int64_t begin = head.begin[range] + (piece - (range == 0 ? 0 : in_first)) * rows_per_piece;
  const int64_t end = begin + rows_per_piece;
  return {begin, end < head.end[range] ? end : head.end[range]};
}

__device__ __forceinline__ float* StateOf(const DecodeArgs& a, int64_t piece, int query) {
  return a.states + (piece * a.group + query) * (a.head_dim + 2);
}

/// Element d of several states' sum.
struct MergedState {
  float max, sum, acc;
};
/// state(i): max, sum, acc [head_dim] of state i. (kernels/softmax_state.h)
template <class State>
__device__ __forceinline__ MergedState MergeStates(int n, int d, const State& state) {
  const float kNone = -__uint_as_float(0x7f800000u);
  MergedState merged = {kNone, 0, 0};
  for (int i = 0; i < n; ++i) merged.max = fmaxf(merged.max, state(i)[0]);
  for (int i = 0; i < n; ++i) {
    const auto* of = state(i);
    const float weight = merged.max == kNone ? 1.0f : expf(of[0] - merged.max);
    merged.sum += weight * of[1];
    merged.acc += weight * of[2 + d];
  }
  return merged;
}

/// out = acc / sum of one query, lse its logarithm.
__device__ __forceinline__ void FinishQuery(const CudaDecodeHead& head, const DecodeArgs& a, int query, int d,
                                            const MergedState& state) {
  head.out[query * a.head_dim + d] = state.acc / state.sum;
  if (d == 0 && head.lse != nullptr) head.lse[query] = state.max + logf(state.sum);
}

/// Called by all threads of a block when its states are written: true for the block that comes last, which then sees
/// the states of all others.
__device__ __forceinline__ bool IsLastPiece(const DecodeArgs& a, int n_pieces, int* shared_flag) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t* counter = a.counters + blockIdx.y * gridDim.z + blockIdx.z;
    const int before = atomicAdd(counter, 1);
    *shared_flag = before == n_pieces - 1 ? 1 : 0;
    if (before == n_pieces - 1) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return *shared_flag != 0;
}

/// Merges the pieces of queries [first, first + n) of the head.
__device__ __forceinline__ void MergePieces(const CudaDecodeHead& head, const DecodeArgs& a, int64_t first_piece,
                                            int n_pieces, int first, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n * a.head_dim; i += static_cast<int>(blockDim.x)) {
    const int query = first + i / a.head_dim, d = i % a.head_dim;
    // Volatile: written by other blocks.
    FinishQuery(head, a, query, d, MergeStates(n_pieces, d, [&](int piece) {
                  return static_cast<const volatile float*>(StateOf(a, first_piece + piece, query));
                }));
  }
}

}  // namespace duo
