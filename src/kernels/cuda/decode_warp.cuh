// A warp's part of a piece in decode attention. The rows of its products are the queries of one KV head, padded to 16.
// It walks over tiles of the cache with an online softmax (arXiv:1805.02867). Each lane copies its part of a tile into
// shared memory some tiles ahead. Only this lane reads it.
#pragma once

#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/decode_tiles.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/softmax_state.h"

namespace duo {

constexpr int kDecodeWarps = 4;  // per block; they take a piece's tiles in turn

/// Number of tiles that a lane has in shared memory. With two or three, two blocks fit a multiprocessor of a
/// data-centre GPU, and one block fits the 99 KiB of other GPUs.
template <KvType kType, int kDim>
constexpr int kDecodeStages = DecodeTile<kType, kDim>::kChunks > 16 ? 2 : 3;

/// Bytes of shared memory for the tiles of a block's warps. DecodeStateBytes: for their states afterwards.
template <KvType kType, int kDim>
constexpr size_t DecodeStageBytes() {
  return size_t{kDecodeWarps} * kDecodeStages<kType, kDim> * DecodeTile<kType, kDim>::kChunks * kWarp * sizeof(Chunk);
}
constexpr size_t DecodeStateBytes(int head_dim) {
  return size_t{kDecodeWarps} * kMergeQueries * (static_cast<size_t>(head_dim) + 2) * sizeof(float);
}

/// Index half selects a query: half 0 is row g of the products, half 1 is row g + 8. kHalves is 2 where there are more
/// than 8 queries. Call FetchFirst, LoadQueries, FoldTiles and, when all warps are done, PutStates, in this order.
template <KvType kType, int kDim, int kHalves>
class DecodeWarp {
  using T = DecodeTile<kType, kDim>;
  static constexpr bool kCodes = kType != KvType::kBF16;
  static constexpr int kSteps = kDim / 16, kOutTiles = kDim / 8, kStages = kDecodeStages<kType, kDim>;

 public:
  /// shared: [DecodeStageBytes()], common to the block.
  __device__ __forceinline__ DecodeWarp(uint8_t* shared, const DecodeHead& head, RowRange piece)
      : head_(head),
        piece_(piece),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        g_(static_cast<int>(threadIdx.x) % kWarp / 4),
        t_(static_cast<int>(threadIdx.x) % 4),
        first_row_(T::FirstRow(piece.begin)),
        n_tiles_(static_cast<int>((piece.end - first_row_ + T::kRows - 1) / T::kRows)),
        stages_(reinterpret_cast<Chunk*>(shared) + warp_ * kStages * T::kChunks * kWarp +
                static_cast<int>(threadIdx.x) % kWarp) {}

  __device__ __forceinline__ void FetchFirst() {
    for (int n = 0; n < kStages - 1; ++n) Fetch(n);
  }

  /// q: [n_queries, kDim]; missing queries count as zeros. scale: factor of the scores, with log2(e) included, because
  /// weights are powers of 2.
  __device__ __forceinline__ void LoadQueries(const float* q, int n_queries, float scale) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = g_ + 8 * half;
        const float* from = q + query * kDim;
        const bool some = query < n_queries;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float x = some ? from[T::Dim(s, t_, i, 0)] * scale : 0.0f;
          const float y = some ? from[T::Dim(s, t_, i, 1)] * scale : 0.0f;
          const uint32_t pair = PackBf16(x, y);
          q_[s][2 * i + half] = pair;
          q_sum_[half] += LowFloat(pair) + HighFloat(pair);
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) q_sum_[half] = SumOfRow(q_sum_[half]);
  }

  __device__ __forceinline__ void FoldTiles() {
    for (int n = 0, tile = warp_; tile < n_tiles_; ++n, tile += kDecodeWarps) {
      WaitForCopies<kStages - 2>();
      Fetch(n + kStages - 1);
      const Chunk* mine = Stage(n);
      const int64_t row = first_row_ + int64_t{tile} * T::kRows;
      const bool edge = row < piece_.begin || row + T::kRows > piece_.end;
      Scores(mine);
      if (edge) Hide(row);
      Softmax();
      if constexpr (kCodes) ScaleWeights(mine, row, edge);
      Values(mine);
    }
  }

  /// Writes the state of query i: max, sum, acc [kDim] at states + (warp * kMergeQueries + i) * (kDim + 2). No copy to
  /// this memory may be in flight.
  __device__ __forceinline__ void PutStates(float* states) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = SumOfRow(rows_[half].sum), middles = SumOfRow(rows_[half].middles);
      float* to = states + (warp_ * kMergeQueries + g_ + 8 * half) * (kDim + 2);
      if (t_ == 0) to[0] = rows_[half].max * kLn2, to[1] = sum;
#pragma unroll
      for (int i = 0; i < kOutTiles; ++i) {
        to[2 + T::OutDim(i, 2 * t_)] = acc_[i][2 * half] + middles;
        to[2 + T::OutDim(i, 2 * t_ + 1)] = acc_[i][2 * half + 1] + middles;
      }
    }
  }

 private:
  /// A lane's part of a query's softmax. Only max is that of the whole row; the sums are over the lane's own columns.
  struct RowState {
    float max, sum, middles;  // middles: sum of weights times the values' middles
  };

  __device__ __forceinline__ Chunk* Stage(int n) const { return stages_ + n % kStages * T::kChunks * kWarp; }

  /// Starts to copy the warp's n-th tile. After the last tile it copies nothing.
  __device__ __forceinline__ void Fetch(int n) const {
    const int tile = warp_ + n * kDecodeWarps;
    if (tile < n_tiles_) T::Fetch(Stage(n), head_, first_row_ + int64_t{tile} * T::kRows, piece_, g_, t_);
    CommitCopies();
  }

  /// Reduces over the four lanes that share a row of a product.
  __device__ __forceinline__ static float SumOfRow(float x) {
    x += __shfl_xor_sync(kWholeWarp, x, 1);
    return x + __shfl_xor_sync(kWholeWarp, x, 2);
  }
  __device__ __forceinline__ static float MaxOfRow(float x) {
    x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 1));
    return fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 2));
  }

  /// Calls act(j, e) for every row of a tile for which the lane has a score, score_[j][2 * half + e].
  template <class Act>
  __device__ __forceinline__ void ForRows(const Act& act) {
#pragma unroll
    for (int j = 0; j < T::kScoreTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) act(j, e);
    }
  }
  __device__ __forceinline__ bool IsHidden(int64_t row, int j, int e) const {
    const int64_t key = row + T::Row(t_, j, e);
    return key < piece_.begin || key >= piece_.end;
  }

  /// Computes q k^T of the tile.
  __device__ __forceinline__ void Scores(const Chunk* mine) {
    ForRows([&](int j, int e) { score_[j][e] = score_[j][2 + e] = 0; });
    T::Scores(mine, q_, score_);
    if constexpr (kCodes) {
      ForRows([&](int j, int e) {
        const StepAndMiddle of = T::Params(mine, 0, j, e);
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          float* s = &score_[j][2 * half + e];
          *s = of.step * *s + of.middle * q_sum_[half];
        }
      });
    }
  }

  /// Sets the scores of rows outside the piece to -inf.
  __device__ __forceinline__ void Hide(int64_t row) {
    ForRows([&](int j, int e) {
      if (IsHidden(row, j, e)) score_[j][e] = score_[j][2 + e] = kNegInf;
    });
  }

  /// Turns scores into weights, and rescales the earlier sums to the new maximum.
  __device__ __forceinline__ void Softmax() {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      RowState* state = &rows_[half];
      float max = state->max;
      ForRows([&](int j, int e) { max = fmaxf(max, score_[j][2 * half + e]); });
      max = MaxOfRow(max);
      const float base = max == kNegInf ? 0.0f : max;
      const float rescale = Exp2(state->max - base);
      state->max = max;
      state->sum *= rescale;
      state->middles *= rescale;
#pragma unroll
      for (int i = 0; i < kOutTiles; ++i) acc_[i][2 * half] *= rescale, acc_[i][2 * half + 1] *= rescale;
      ForRows([&](int j, int e) {
        float* s = &score_[j][2 * half + e];
        *s = Exp2(*s - base);
        state->sum += *s;
      });
    }
  }

  /// Multiplies the weights by the steps of the values. Weights times middles are summed separately.
  __device__ __forceinline__ void ScaleWeights(const Chunk* mine, int64_t row, bool edge) {
    ForRows([&](int j, int e) {
      const StepAndMiddle of = T::Params(mine, 1, j, e);
      // A hidden row's parameters may never have been written.
      const bool hidden = edge && IsHidden(row, j, e);
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        float* p = &score_[j][2 * half + e];
        rows_[half].middles += hidden ? 0.0f : *p * of.middle;
        *p = hidden ? 0.0f : *p * of.step;
      }
    });
  }

  /// acc += p v.
  __device__ __forceinline__ void Values(const Chunk* mine) {
    uint32_t p[T::kSums][4] = {};
#pragma unroll
    for (int sum = 0; sum < T::kSums; ++sum) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) T::Weights(score_, sum, 2 * half, &p[sum][half], &p[sum][2 + half]);
    }
    T::Values(mine, p, acc_);
  }

  const DecodeHead& head_;
  RowRange piece_;
  int warp_, g_, t_;
  int64_t first_row_;  // of the piece's first tile
  int n_tiles_;
  Chunk* stages_;  // this lane's [kStages, T::kChunks], kWarp chunks apart
  uint32_t q_[kSteps][4];
  float q_sum_[2] = {};
  float score_[T::kScoreTiles][4];
  float acc_[kOutTiles][4] = {};
  RowState rows_[2] = {{kNegInf, 0, 0}, {kNegInf, 0, 0}};
};

}  // namespace duo
