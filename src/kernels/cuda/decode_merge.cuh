// The partial states of a decode step's pieces. The last piece of a head to end merges them (kernels/softmax_state.h;
// flash-decoding).
#pragma once

#include <type_traits>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/decode_state.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/softmax_state.h"

namespace duo {

constexpr int kMaxDecodeHeads = 64;  // per launch, passed in its parameters
constexpr int kMergeQueries = 16;    // queries per block

struct DecodeHeads {
  static_assert(std::has_unique_object_representations_v<DecodeHead>,
                "the arguments of launches are compared as bytes");
  DecodeHead head[kMaxDecodeHeads];
  int32_t n_pieces[kMaxDecodeHeads];
  int32_t first_piece[kMaxDecodeHeads];
};

// Arguments of kernels have no padding, so that all of their bytes are defined.
struct DecodeArgs {
  int group, head_dim;
  int64_t rows_per_piece;
  float scale, unused = 0;
  float* states;      // [pieces, group, StateStride(head_dim)]
  int32_t* counters;  // [gridDim.y, gridDim.z]
};

/// The rows of piece `piece` of a head.
__device__ __forceinline__ RowRange RowsOfPiece(const DecodeHead& head, int64_t piece, int64_t rows_per_piece) {
  const int64_t in_first = (head.ranges[0].end - head.ranges[0].begin + rows_per_piece - 1) / rows_per_piece;
  const int range = piece < in_first ? 0 : 1;
  const int64_t begin = head.ranges[range].begin + (piece - (range == 0 ? 0 : in_first)) * rows_per_piece;
  const int64_t end = begin + rows_per_piece;
  return {begin, end < head.ranges[range].end ? end : head.ranges[range].end};
}

/// The work of a block of threads.
struct DecodeBlock {
  const DecodeHead& head;
  int n_pieces, piece;  // of the head; there may be more blocks than pieces
  int32_t first_piece;  // index of the head's first piece among all pieces
  int first_query, n_queries;
};
__device__ __forceinline__ DecodeBlock ThisDecodeBlock(const DecodeHeads& heads, const DecodeArgs& a) {
  const int first = static_cast<int>(blockIdx.z) * kMergeQueries, left = a.group - first;
  return {heads.head[blockIdx.y],
          heads.n_pieces[blockIdx.y],
          static_cast<int>(blockIdx.x),
          heads.first_piece[blockIdx.y],
          first,
          left < kMergeQueries ? left : kMergeQueries};
}

__device__ __forceinline__ float* StateOf(const DecodeArgs& a, int64_t piece, int query) {
  return a.states + (piece * a.group + query) * StateStride(a.head_dim);
}

/// Several states merged, with element d of their acc.
struct MergedState {
  float max, sum, acc;
};
/// Merges n states (kernels/softmax_state.h). state(i) points at max, sum, acc [head_dim] of state i.
template <class State>
__device__ __forceinline__ MergedState MergeStates(int n, int d, const State& state) {
  MergedState merged = {kNegInf, 0, 0};
  for (int i = 0; i < n; ++i) merged.max = fmaxf(merged.max, state(i)[0]);
  for (int i = 0; i < n; ++i) {
    const auto* of = state(i);
    const float weight = merged.max == kNegInf ? 1.0f : expf(of[0] - merged.max);
    merged.sum += weight * of[1];
    merged.acc += weight * of[2 + d];
  }
  return merged;
}

/// Writes out = acc / sum of one query, and lse = max + log(sum).
__device__ __forceinline__ void FinishQuery(const DecodeHead& head, const DecodeArgs& a, int query, int d,
                                            const MergedState& state) {
  head.out[query * a.head_dim + d] = state.acc / state.sum;
  if (d == 0 && head.lse != nullptr) head.lse[query] = state.max + logf(state.sum);
}

/// All threads of a block call this after writing its states. Returns true in the block that comes last, which then
/// sees the states of all other blocks.
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
  const bool last = *shared_flag != 0;
  __syncthreads();  // shared memory is free again
  return last;
}

constexpr int kMergePieces = 64;  // pieces whose weights are in shared memory at a time
/// Floats of shared memory for MergePieces.
constexpr int kMergeFloats = kMergeQueries * (1 + 2 * kMergePieces);

/// Value `at` of the state of a piece. Loads from L2, where the writes of other blocks are.
__device__ __forceinline__ float LoadState(const DecodeBlock& block, const DecodeArgs& a, int piece, int query,
                                           int at) {
  return __ldcg(StateOf(a, block.first_piece + piece, block.first_query + query) + at);
}

/// For each query of the block and each of `count` pieces from `begin` on: the piece's weight, and the weight times the
/// piece's sum.
__device__ __forceinline__ void WeighPieces(const DecodeBlock& block, const DecodeArgs& a, int begin, int count,
                                            const float* largest, float* weights, float* sums) {
  for (int i = static_cast<int>(threadIdx.x); i < block.n_queries * count; i += static_cast<int>(blockDim.x)) {
    const int query = i / count, piece = i % count;
    const float max = LoadState(block, a, begin + piece, query, 0);
    const float weight = largest[query] == kNegInf ? 1.0f : expf(max - largest[query]);
    weights[query * kMergePieces + piece] = weight;
    sums[query * kMergePieces + piece] = weight * LoadState(block, a, begin + piece, query, 1);
  }
}

/// Merges the pieces of the block's queries. One block does this while the others have ended, so it needs many loads in
/// flight: a thread sums four dimensions over all pieces.
__device__ __forceinline__ void MergePieces(const DecodeBlock& block, const DecodeArgs& a, float* shared) {
  const int thread = static_cast<int>(threadIdx.x), n_threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarp;
  float* largest = shared;                               // [query]
  float* weights = shared + kMergeQueries;               // [query, piece]: weight of the piece
  float* sums = weights + kMergeQueries * kMergePieces;  // [query, piece]: weight times the piece's sum
  for (int query = thread / kWarp; query < block.n_queries; query += n_threads / kWarp) {
    float max = kNegInf;
    for (int piece = lane; piece < block.n_pieces; piece += kWarp)
      max = fmaxf(max, LoadState(block, a, piece, query, 0));
    max = WarpMax(max);
    if (lane == 0) largest[query] = max;
  }
  const int n_vectors = (a.head_dim + 3) / 4 * block.n_queries;
  for (int begin_vector = 0; begin_vector < n_vectors; begin_vector += n_threads) {
    const int vector = begin_vector + thread;
    const int query = vector / ((a.head_dim + 3) / 4), d = vector % ((a.head_dim + 3) / 4) * 4;
    float sum = 0, acc[4] = {};
    for (int begin = 0; begin < block.n_pieces; begin += kMergePieces) {
      const int left = block.n_pieces - begin, count = left < kMergePieces ? left : kMergePieces;
      __syncthreads();
      WeighPieces(block, a, begin, count, largest, weights, sums);
      __syncthreads();
      if (vector >= n_vectors) continue;
#pragma unroll 8
      for (int piece = 0; piece < count; ++piece) {
        const float* from = StateOf(a, block.first_piece + begin + piece, block.first_query + query) + kStateHeader + d;
        const float4 part = __ldcg(reinterpret_cast<const float4*>(from));
        const float weight = weights[query * kMergePieces + piece];
        sum += sums[query * kMergePieces + piece];
        acc[0] += weight * part.x;
        acc[1] += weight * part.y;
        acc[2] += weight * part.z;
        acc[3] += weight * part.w;
      }
    }
    if (vector >= n_vectors) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (d + i >= a.head_dim) break;
      FinishQuery(block.head, a, block.first_query + query, d + i, {largest[query], sum, acc[i]});
    }
  }
}

/// All threads of a block call this when its piece is computed. state(i, d) is the state of query i with dimension d. A
/// head with one piece is then finished. For other heads the last piece to end merges all pieces.
/// shared: [kMergeFloats]; `state` may read from it.
template <class State>
__device__ __forceinline__ void FinishPiece(const DecodeBlock& block, const DecodeArgs& a, int head_dim, float* shared,
                                            const State& state) {
  for (int i = static_cast<int>(threadIdx.x); i < block.n_queries * head_dim; i += static_cast<int>(blockDim.x)) {
    const int query = i / head_dim, d = i % head_dim;
    const MergedState merged = state(query, d);
    if (block.n_pieces == 1) {
      FinishQuery(block.head, a, block.first_query + query, d, merged);
      continue;
    }
    float* to = StateOf(a, block.first_piece + block.piece, block.first_query + query);
    if (d == 0) to[0] = merged.max, to[1] = merged.sum;
    to[kStateHeader + d] = merged.acc;
  }
  if (block.n_pieces == 1) return;
  if (IsLastPiece(a, block.n_pieces, reinterpret_cast<int*>(shared))) MergePieces(block, a, shared);
}

}  // namespace duo
