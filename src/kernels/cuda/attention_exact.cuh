// Attention with products of floats, for every cache type, head size and group. It serves the checking mode, and shapes
// that the tensor-core kernels do not support. A block of threads has up to 16 queries of one KV head and walks over
// tiles of 16 rows with an online softmax (arXiv:1805.02867).
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kv_element.cuh"
#include "kernels/softmax_state.h"

namespace duo {

constexpr int kExactThreads = 128;
constexpr int kExactQueries = 16;
constexpr int kExactRows = 16;

/// The block's shared memory.
struct ExactTile {
  float* q;    // [kExactQueries, head_dim], scaled
  float* acc;  // [kExactQueries, head_dim]
  float* k;    // [kExactRows, head_dim + 1]
  float* v;    // [kExactRows, head_dim]
  float* p;    // [kExactQueries, kExactRows]
  float* max;  // [kExactQueries]
  float* sum;
  float* rescale;
};

inline size_t ExactSharedBytes(int head_dim) {
  const auto dim = static_cast<size_t>(head_dim);
  return sizeof(float) *
         ((2 * kExactQueries + 2 * kExactRows) * dim + kExactRows + kExactQueries * kExactRows + 3 * kExactQueries);
}

__device__ __forceinline__ ExactTile ExactTileAt(uint8_t* shared, int head_dim) {
  ExactTile t;
  t.q = reinterpret_cast<float*>(shared);
  t.acc = t.q + kExactQueries * head_dim;
  t.k = t.acc + kExactQueries * head_dim;
  t.v = t.k + kExactRows * (head_dim + 1);
  t.p = t.v + kExactRows * head_dim;
  t.max = t.p + kExactQueries * kExactRows;
  t.sum = t.max + kExactQueries;
  t.rescale = t.sum + kExactQueries;
  return t;
}

/// Loads the queries that `query(i)` points at, i < n_queries, with empty softmax states.
template <class Query>
__device__ __forceinline__ void BeginExact(const ExactTile& t, int n_queries, int head_dim, float scale,
                                           const Query& query) {
  for (int i = static_cast<int>(threadIdx.x); i < n_queries * head_dim; i += kExactThreads) {
    t.q[i] = query(i / head_dim)[i % head_dim] * scale;
    t.acc[i] = 0;
  }
  if (static_cast<int>(threadIdx.x) < n_queries) {
    t.max[threadIdx.x] = kNegInf;
    t.sum[threadIdx.x] = 0;
  }
}

/// Turns the scores of kExactRows rows into weights, and updates the maximum and the sum of each query. A warp takes
/// two queries, half of it for the rows of one.
__device__ __forceinline__ void WeighExact(const ExactTile& t, int n_queries) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int pair = warp; 2 * pair < n_queries; pair += kExactThreads / kWarp) {
    const int query = 2 * pair + lane / kExactRows;
    const bool some = query < n_queries;
    const int at = (some ? query : n_queries - 1) * kExactRows + lane % kExactRows;
    const float score = t.p[at];
    float most = score;
    for (int step = kExactRows / 2; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(kWholeWarp, most, step));
    const float before = t.max[some ? query : n_queries - 1];
    const float max = fmaxf(before, most);
    const float p = score == kNegInf ? 0.0f : expf(score - max);
    float sum = p;
    for (int step = kExactRows / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
    __syncwarp();
    if (!some) continue;
    t.p[at] = p;
    if (lane % kExactRows != 0) continue;
    const float rescale = before == kNegInf ? 0.0f : expf(before - max);
    t.rescale[query] = rescale;
    t.max[query] = max;
    // A NaN sum without a maximum comes from NaN keys and is kept.
    t.sum[query] = (before == kNegInf ? t.sum[query] : t.sum[query] * rescale) + sum;
  }
}

/// Folds in rows [row, row + kExactRows). Query i sees row r if sees(i, r). Rows outside [first, last) are not read.
template <KvType kType, class Sees>
__device__ __forceinline__ void FoldExact(const ExactTile& t, int n_queries, int head_dim, const uint8_t* k,
                                          const uint8_t* v, int64_t row, int64_t first, int64_t last,
                                          const Sees& sees) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  for (int i = thread; i < kExactRows * head_dim; i += kExactThreads) {
    const int r = i / head_dim, d = i % head_dim;
    const bool there = row + r >= first && row + r < last;
    t.k[r * (head_dim + 1) + d] = there ? KvValue<kType>(k, KvPart::kKeys, row + r, head_dim, d) : 0.0f;
    t.v[i] = there ? KvValue<kType>(v, KvPart::kValues, row + r, head_dim, d) : 0.0f;
  }
  __syncthreads();
  for (int i = thread; i < n_queries * kExactRows; i += kExactThreads) {
    const int r = i % kExactRows, query = i / kExactRows;
    float score = kNegInf;
    if (row + r >= first && row + r < last && sees(query, row + r)) {
      score = 0;
      for (int d = 0; d < head_dim; ++d) score += t.q[query * head_dim + d] * t.k[r * (head_dim + 1) + d];
    }
    t.p[i] = score;
  }
  __syncthreads();
  WeighExact(t, n_queries);
  __syncthreads();
  for (int i = thread; i < n_queries * head_dim; i += kExactThreads) {
    const int query = i / head_dim, d = i % head_dim;
    float sum = t.acc[i] * t.rescale[query];
    for (int r = 0; r < kExactRows; ++r) {
      const float p = t.p[query * kExactRows + r];
      // A hidden row may hold anything, even infinities.
      if (p != 0.0f) sum += p * t.v[r * head_dim + d];
    }
    t.acc[i] = sum;
  }
}

}  // namespace duo
