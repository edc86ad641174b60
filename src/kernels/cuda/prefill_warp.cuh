// A warp of the prefill kernel. It has 32 of the block's queries with their online softmax in registers.
#pragma once

#include "kernels/cuda/prefill_tiles.cuh"
#include "kernels/softmax_state.h"

namespace duo {

/// Index m is one of the warp's two tiles of 16 queries, which share the loaded keys and values. Index half selects
/// query g or g + 8 of such a tile. For each query a lane has the scores of columns 8 j + 2 t + e, which are rows of
/// the tile of the cache.
template <KvType kType, int kDim>
class PrefillWarp {
  using S = PrefillShared<kType, kDim>;
  static constexpr int kScoreTiles = kPrefillRows / 8, kOutTiles = kDim / 8;

 public:
  __device__ __forceinline__ explicit PrefillWarp(S* shared) : s_(shared) {
#pragma unroll
    for (int i = 0; i < 4; ++i) max_[i / 2][i % 2] = kNegInf;
    if constexpr (S::kCodes) SumQueries();
  }

  /// Multiplies the queries with the tile's keys.
  __device__ __forceinline__ void Scores() {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < kScoreTiles; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) score_[m][j][i] = 0;
      }
    }
    const int q_at = S::At(FirstQuery() + Lane() % 16, Lane() / 16);
    const int k_at = S::At(Lane() % 8 + Lane() / 16 * 8, Lane() / 8 % 2);
    // Further unrolling would put so many loads in flight that registers spill.
#pragma unroll 2
    for (int step = 0; step < kDim / 16; ++step) {
      uint32_t q[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) LoadMatrices<false>(q[m], &s_->q[S::Further(q_at, 16 * m, 2 * step)]);
#pragma unroll
      for (int j = 0; j < kScoreTiles; j += 2) {
        uint32_t k[4];
        LoadMatrices<false>(k, &s_->k[S::Further(k_at, 8 * j, 2 * step)]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          Mma(score_[m][j], q[m], k[0], k[1]);
          Mma(score_[m][j + 1], q[m], k[2], k[3]);
        }
      }
    }
  }

  /// Turns scores into weights, and rescales the earlier sums to the new maximum.
  __device__ __forceinline__ void Softmax(const PrefillHead& head, const PrefillQueries& queries, int row,
                                          TileBits seen_by_all) {
    if constexpr (S::kCodes) {
      ForScores(0,
                [&](int m, int half, StepAndMiddle of, float* x) { *x = of.step * *x + of.middle * q_sum_[m][half]; });
    }
    if (seen_by_all != kWholeTile) Hide(head, queries, row);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) Weigh(m, half);
    }
    if constexpr (S::kCodes) {
      ForScores(1, [&](int m, int half, StepAndMiddle of, float* p) {
        middles_[m][half] += *p * of.middle;
        *p *= of.step;
      });
    }
  }

  /// Adds the tile's values times their weights.
  __device__ __forceinline__ void Values() {
    const int v_at = S::At(Lane() % 16, Lane() / 16);
#pragma unroll
    for (int step = 0; step < kPrefillRows / 16; ++step) {
      uint32_t p[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* from = &score_[m][2 * step + i / 2][i % 2 * 2];
          p[m][i] = PackBf16(from[0], from[1]);
        }
      }
#pragma unroll
      for (int i = 0; i < kOutTiles; i += 2) {
        uint32_t v[4];
        LoadMatrices<true>(v, &s_->v[S::Further(v_at, 16 * step, i)]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          Mma(acc_[m][i], p[m], v[0], v[1]);
          Mma(acc_[m][i + 1], p[m], v[2], v[3]);
        }
      }
    }
  }

  /// Writes out and lse.
  __device__ __forceinline__ void Finish(const PrefillHead& head, const PrefillQueries& queries, const PrefillArgs& a) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = sum_[m][half], middles = middles_[m][half];
        for (int step = 1; step <= 2; step *= 2) {
          sum += __shfl_xor_sync(kWholeWarp, sum, step);
          middles += __shfl_xor_sync(kWholeWarp, middles, step);
        }
        const int i = QueryOf(m, half);
        if (i >= queries.n) continue;
        const int64_t token = queries.first_token + i / queries.n_heads;
        const int of_group = queries.first_head + i % queries.n_heads;
        float* out = head.out + token * a.q_stride + of_group * kDim + 2 * (Lane() % 4);
        const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
        for (int d = 0; d < kOutTiles; ++d) {
          const float* from = &acc_[m][d][2 * half];
          *reinterpret_cast<float2*>(out + 8 * d) =
              make_float2((from[0] + middles) * inverse, (from[1] + middles) * inverse);
        }
        if (Lane() % 4 == 0 && head.lse != nullptr) {
          head.lse[token * a.lse_stride + of_group] = max_[m][half] * kLn2 + logf(sum);
        }
      }
    }
  }

 private:
  static constexpr int kQueriesOfWarp = kPrefillQueries / (kPrefillThreads / kWarp);

  __device__ __forceinline__ static int Lane() { return static_cast<int>(threadIdx.x % kWarp); }
  __device__ __forceinline__ static int FirstQuery() { return static_cast<int>(threadIdx.x / kWarp) * kQueriesOfWarp; }
  __device__ __forceinline__ static int QueryOf(int m, int half) {
    return FirstQuery() + 16 * m + 8 * half + Lane() / 4;
  }

  /// Sums the elements of each query. Keys are multiplied as codes relative to the middle code, so the middle code
  /// contributes its value times this sum.
  __device__ __forceinline__ void SumQueries() {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = 0;
        for (int c = Lane() % 4; c < S::kChunks; c += 4) {
          const Chunk chunk = s_->q[S::At(QueryOf(m, half), c)];
          for (const uint32_t word : chunk.word) sum += LowFloat(word) + HighFloat(word);
        }
        sum += __shfl_xor_sync(kWholeWarp, sum, 1);
        q_sum_[m][half] = sum + __shfl_xor_sync(kWholeWarp, sum, 2);
      }
    }
  }

  /// Sets the scores of rows that a query does not see to -inf.
  __device__ __forceinline__ void Hide(const PrefillHead& head, const PrefillQueries& queries, int row) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t pos = queries.Pos(QueryOf(m, half));
        const TileBits seen = SeenOf(RowsSeen(head, pos, pos), row) >> (2 * (Lane() % 4));
#pragma unroll
        for (int j = 0; j < kScoreTiles; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if ((seen >> (8 * j + e) & 1) == 0) score_[m][j][2 * half + e] = kNegInf;
          }
        }
      }
    }
  }

  /// One step of the online softmax, for one row of the scores.
  __device__ __forceinline__ void Weigh(int m, int half) {
    float max = max_[m][half];
#pragma unroll
    for (int j = 0; j < kScoreTiles; ++j) {
      max = fmaxf(max, fmaxf(score_[m][j][2 * half], score_[m][j][2 * half + 1]));
    }
    max = fmaxf(max, __shfl_xor_sync(kWholeWarp, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kWholeWarp, max, 2));
    const float base = max == kNegInf ? 0.0f : max, rescale = Exp2(max_[m][half] - base);
    max_[m][half] = max;
    if constexpr (S::kCodes) middles_[m][half] *= rescale;
#pragma unroll
    for (int i = 0; i < kOutTiles; ++i) {
      acc_[m][i][2 * half] *= rescale;
      acc_[m][i][2 * half + 1] *= rescale;
    }
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kScoreTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float* p = &score_[m][j][2 * half + e];
        *p = Exp2(*p - base);
        sum += *p;
      }
    }
    sum_[m][half] = sum_[m][half] * rescale + sum;
  }

  /// Calls act(m, half, parameters, score) for every score. The parameters are those of the score's row as a key
  /// (which = 0) or a value (which = 1).
  template <class Do>
  __device__ __forceinline__ void ForScores(int which, const Do& act) {
    const uint32_t* params = s_->params[which] + 2 * (Lane() % 4);
#pragma unroll
    for (int j = 0; j < kScoreTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const StepAndMiddle of = StepOf<kType>(params[8 * j + e]);
#pragma unroll
        for (int i = 0; i < 4; ++i) act(i / 2, i % 2, of, &score_[i / 2][j][i % 2 * 2 + e]);
      }
    }
  }

  S* s_;
  float q_sum_[2][2];  // set for codes only
  float score_[2][kScoreTiles][4];
  float acc_[2][kOutTiles][4] = {};
  float max_[2][2];
  float sum_[2][2] = {}, middles_[2][2] = {};  // over this lane's columns
};

}  // namespace duo
