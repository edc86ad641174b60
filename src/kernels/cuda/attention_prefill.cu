// Prefill attention on tensor cores (FlashAttention-2, arXiv:2307.08691, algorithm 1): a block of four warps has 128
// queries of one KV head, tokens times the group's heads, and walks over tiles of 64 rows of the cache, of which those
// that the mask hides from all its queries are left out. While it multiplies, the next rows are on their way to shared
// memory; codes are widened there once for all queries.
#include <algorithm>

#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/kv_codes.h"

namespace duo {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 128, kQueriesOfWarp = 32;
constexpr int kRows = 64;  // of a tile

/// A block's shared memory. Rows of kDim bf16 numbers in chunks of 16 bytes, chunk c of row r at c ^ (r % 8): the eight
/// rows that one matrix takes then lie in different banks.
template <KvType kType, int kDim>
struct Shared {
  static constexpr bool kCodes = kType != KvType::kBF16;
  static constexpr int kChunks = kDim / 8;  // of a row
  static constexpr int kCodeBytes = kType == KvType::kInt4 ? kDim / 2 : kDim;
  static constexpr int kCodeChunks = kRows * (kCodeBytes + 4) / 16;

  Chunk q[kQueries * kChunks], k[kRows * kChunks], v[kRows * kChunks];
  Chunk codes[2][kCodes ? kCodeChunks : 1];  // of keys and values, as the cache has them
  StepAndMiddle step[2][kCodes ? kRows : 1];

  __device__ __forceinline__ static int At(int row, int chunk) { return row * kChunks + (chunk ^ (row & 7)); }
};

/// What the block's queries are.
struct Queries {
  int64_t first_token, first_pos, last_pos;
  int n, n_heads, first_head;
  __device__ __forceinline__ int64_t Pos(int i) const { return first_pos + i / n_heads; }
};

/// Whether any query of the block sees this position.
__device__ __forceinline__ bool AnySees(const LambdaMask& mask, const Queries& queries, int64_t pos) {
  const int64_t nearest = pos > queries.first_pos ? pos : queries.first_pos;
  return pos <= queries.last_pos && Sees(mask, nearest, pos);
}

enum class View { kNone, kSome, kAll };
/// Of the tile's rows [row, row + kRows), for the block's queries.
__device__ __forceinline__ View ViewOf(const CudaPrefillHead& head, const Queries& queries, int64_t row) {
  const bool whole = row + kRows <= head.n_rows;
  const int64_t first = PositionOf(head, row), last = PositionOf(head, (whole ? row + kRows : head.n_rows) - 1);
  if (first >= head.mask.sink && queries.first_pos - last >= head.mask.window) return View::kNone;
  const bool all =
      whole && last <= queries.first_pos && (last < head.mask.sink || queries.last_pos - first < head.mask.window);
  return all ? View::kAll : View::kSome;
}

/// The first tile from `row` on that somebody sees, or one behind the last.
__device__ __forceinline__ int64_t NextTile(const CudaPrefillHead& head, const Queries& queries, int64_t row) {
  while (row < head.n_rows && PositionOf(head, row) <= queries.last_pos) {
    if (ViewOf(head, queries, row) != View::kNone) return row;
    row += kRows;
  }
  return head.n_rows;
}

/// Which rows of a tile a query sees (Sees, of rows in order of position): those before `end` that are also before
/// sink_end or not before window_begin.
struct Columns {
  int end, sink_end, window_begin;
};
__device__ __forceinline__ Columns SeenBy(const CudaPrefillHead& head, int64_t q_pos, int64_t row) {
  // Rows of the cache whose position is below `pos`, within the tile.
  const auto before = [&](int64_t pos) {
    const int64_t sinks = pos < head.n_sink_rows ? pos : head.n_sink_rows;
    const int64_t n = (pos > head.body_pos ? pos - head.body_pos : 0) + sinks - row;
    return static_cast<int>(n < 0 ? 0 : n > kRows ? kRows : n);
  };
  const int64_t left = head.n_rows - row;
  const int end = before(q_pos + 1);
  return {left < end ? static_cast<int>(left) : end, before(head.mask.sink),
          q_pos >= head.mask.window ? before(q_pos - head.mask.window + 1) : 0};
}

template <KvType kType, int kDim>
__device__ __forceinline__ void FetchRows(Chunk* to, const uint8_t* rows, const CudaPrefillHead& head,
                                          const Queries& queries, int64_t row, bool hide) {
  using S = Shared<kType, kDim>;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * S::kChunks; i += kThreads) {
    const int r = i / S::kChunks, c = i % S::kChunks;
    // What nobody sees may hold anything, and zero times that need not be zero.
    const bool there = row + r < head.n_rows && (!hide || AnySees(head.mask, queries, PositionOf(head, row + r)));
    CopyAsync(to + S::At(r, c), rows + (there ? row + r : 0) * (2 * kDim) + 16 * c, there);
  }
}

template <class S>
constexpr int kBlockBytes = kCodeRows*(S::kCodeBytes + 4);

template <KvType kType, int kDim>
__device__ __forceinline__ void FetchCodes(Shared<kType, kDim>* s, const CudaPrefillHead& head, int64_t row) {
  using S = Shared<kType, kDim>;
  constexpr int kPerBlock = kBlockBytes<S> / 16;
  const int64_t first = row / kCodeRows, last = (head.n_rows - 1) / kCodeRows;
  for (int i = static_cast<int>(threadIdx.x); i < S::kCodeChunks; i += kThreads) {
    const int64_t block = first + i / kPerBlock < last ? first + i / kPerBlock : last;
    const int64_t from = block * kBlockBytes<S> + 16 * (i % kPerBlock);
    CopyAsync(&s->codes[0][i], head.k + from);
    CopyAsync(&s->codes[1][i], head.v + from);
  }
}

/// Writes bytes [8 half, 8 half + 8) of a chunk.
__device__ __forceinline__ void PutHalf(Chunk* chunk, int half, uint32_t low, uint32_t high) {
  *reinterpret_cast<uint2*>(&chunk->word[2 * half]) = uint2{low, high};
}

/// From codes to bf16 numbers around the middle code, a chunk of four rows by four (int8) or eight dimensions at a
/// time.
template <KvType kType, int kDim>
__device__ __forceinline__ void WidenCodes(Shared<kType, kDim>* s, const CudaPrefillHead& head, const Queries& queries,
                                           int64_t first_row, bool hide) {
  using S = Shared<kType, kDim>;
  constexpr bool kBytes = kType == KvType::kInt8;
  constexpr int kPerBlock = kCodeRows * S::kCodeBytes / 16, kAll = kRows / kCodeRows * kPerBlock;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kAll; i += kThreads) {
    const bool keys = i < kAll;
    const int block = i % kAll / kPerBlock, in = i % kPerBlock;
    const Chunk codes = s->codes[keys ? 0 : 1][block * (kBlockBytes<S> / 16) + in];
    Chunk* to = keys ? s->k : s->v;
    // Keys: chunks of four rows by dimension; values: of dimensions by four rows.
    constexpr int kAcross = kBytes ? kDim / 4 : kDim / 8;
    const int quad = keys ? in % 4 : in / kAcross, across = keys ? in / 4 : in % kAcross;
    const int row = block * kCodeRows + 4 * quad;
    const int chunk = kBytes ? across / 2 : across, half = kBytes ? across % 2 : 0;
    if (keys) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const uint32_t w = codes.word[r];
        const uint32_t even = CentredCodes<kType>(w), odd = CentredCodes<kType>(w >> 8);
        Chunk* at = to + S::At(row + r, chunk);
        PutHalf(at, half, LowHalves(even, odd), HighHalves(even, odd));
        if constexpr (!kBytes) {
          const uint32_t upper_even = CentredCodes<kType>(w >> 4), upper_odd = CentredCodes<kType>(w >> 12);
          PutHalf(at, 1, LowHalves(upper_even, upper_odd), HighHalves(upper_even, upper_odd));
        }
      }
      continue;
    }
#pragma unroll
    for (int part = 0; part < (kBytes ? 1 : 2); ++part) {
      uint32_t even[4], odd[4];  // rows 0 and 2, 1 and 3 of four dimensions
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        const uint32_t w = kBytes ? codes.word[d] : codes.word[2 * part + d / 2] >> (d % 2 * 4);
        even[d] = CentredCodes<kType>(w);
        odd[d] = CentredCodes<kType>(w >> 8);
      }
      const int at = kBytes ? half : part;
      PutHalf(to + S::At(row, chunk), at, LowHalves(even[0], even[1]), LowHalves(even[2], even[3]));
      PutHalf(to + S::At(row + 1, chunk), at, LowHalves(odd[0], odd[1]), LowHalves(odd[2], odd[3]));
      PutHalf(to + S::At(row + 2, chunk), at, HighHalves(even[0], even[1]), HighHalves(even[2], even[3]));
      PutHalf(to + S::At(row + 3, chunk), at, HighHalves(odd[0], odd[1]), HighHalves(odd[2], odd[3]));
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kRows; i += kThreads) {
    const int which = i / kRows, row = i % kRows;
    const auto* block = reinterpret_cast<const uint8_t*>(s->codes[which]) + row / kCodeRows * kBlockBytes<S>;
    const auto* params = reinterpret_cast<const uint32_t*>(block + kCodeRows * S::kCodeBytes);
    // What nobody sees may never have been written.
    const bool seen =
        !hide || (first_row + row < head.n_rows && AnySees(head.mask, queries, PositionOf(head, first_row + row)));
    s->step[which][row] = seen ? StepOf<kType>(params[row % kCodeRows]) : StepAndMiddle{0, 0};
  }
}

/// A warp's 32 queries: m counts its two tiles of 16, half the rows g and g + 8 of one.
template <KvType kType, int kDim>
class WarpQueries {
  using S = Shared<kType, kDim>;
  static constexpr int kScoreTiles = kRows / 8, kOutTiles = kDim / 8;

 public:
  __device__ __forceinline__ WarpQueries(S* shared, const CudaPrefillHead& head, const Queries& queries)
      : s_(shared),
        head_(head),
        queries_(queries),
        lane_(static_cast<int>(threadIdx.x) % kWarp),
        first_(static_cast<int>(threadIdx.x) / kWarp * kQueriesOfWarp) {
#pragma unroll
    for (int i = 0; i < 4; ++i) max_[i / 2][i % 2] = -__uint_as_float(0x7f800000u);
    if constexpr (S::kCodes) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float sum = 0;
          for (int c = lane_ % 4; c < S::kChunks; c += 4) {
            const Chunk chunk = s_->q[S::At(RowOf(m, half), c)];
            for (const uint32_t word : chunk.word) sum += LowFloat(word) + HighFloat(word);
          }
          sum += __shfl_xor_sync(kWholeWarp, sum, 1);
          q_sum_[m][half] = sum + __shfl_xor_sync(kWholeWarp, sum, 2);
        }
      }
    }
  }

  __device__ __forceinline__ void Scores() {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < kScoreTiles; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) score_[m][j][i] = 0;
      }
    }
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      uint32_t q[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        LoadMatrices<false>(q[m], &s_->q[S::At(first_ + 16 * m + lane_ % 16, 2 * step + lane_ / 16)]);
      }
#pragma unroll
      for (int j = 0; j < kScoreTiles; j += 2) {
        uint32_t k[4];
        LoadMatrices<false>(k, &s_->k[S::At(8 * j + lane_ % 8 + lane_ / 16 * 8, 2 * step + lane_ / 8 % 2)]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          Mma(score_[m][j], q[m], k[0], k[1]);
          Mma(score_[m][j + 1], q[m], k[2], k[3]);
        }
      }
    }
  }

  /// Scores of tile `row` become weights, and what was summed is rescaled to their largest.
  __device__ __forceinline__ void Softmax(int64_t row, bool hide) {
    const float kNone = -__uint_as_float(0x7f800000u);
    if constexpr (S::kCodes) {
      ForScores([&](int m, int half, int column, float* x) {
        const StepAndMiddle of = s_->step[0][column];
        *x = of.step * *x + of.middle * q_sum_[m][half];
      });
    }
    if (hide) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Columns seen = SeenBy(head_, queries_.Pos(RowOf(m, half)), row);
#pragma unroll
          for (int j = 0; j < kScoreTiles; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int column = 8 * j + 2 * (lane_ % 4) + e;
              const bool sees = column < seen.end && (column < seen.sink_end || column >= seen.window_begin);
              if (!sees) score_[m][j][2 * half + e] = kNone;
            }
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float max = max_[m][half];
#pragma unroll
        for (int j = 0; j < kScoreTiles; ++j) {
          max = fmaxf(max, fmaxf(score_[m][j][2 * half], score_[m][j][2 * half + 1]));
        }
        max = fmaxf(max, __shfl_xor_sync(kWholeWarp, max, 1));
        max = fmaxf(max, __shfl_xor_sync(kWholeWarp, max, 2));
        const float base = max == kNone ? 0.0f : max, rescale = Exp2(max_[m][half] - base);
        max_[m][half] = max;
        sum_[m][half] *= rescale;
        if constexpr (S::kCodes) middles_[m][half] *= rescale;
#pragma unroll
        for (int i = 0; i < kOutTiles; ++i) {
          acc_[m][i][2 * half] *= rescale;
          acc_[m][i][2 * half + 1] *= rescale;
        }
#pragma unroll
        for (int j = 0; j < kScoreTiles; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float* p = &score_[m][j][2 * half + e];
            *p = Exp2(*p - base);
            sum_[m][half] += *p;
          }
        }
      }
    }
    if constexpr (S::kCodes) {
      ForScores([&](int m, int half, int column, float* p) {
        const StepAndMiddle of = s_->step[1][column];
        middles_[m][half] += *p * of.middle;
        *p *= of.step;
      });
    }
  }

  __device__ __forceinline__ void Values() {
#pragma unroll
    for (int step = 0; step < kRows / 16; ++step) {
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
        LoadMatrices<true>(v, &s_->v[S::At(16 * step + lane_ % 16, i + lane_ / 16)]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          Mma(acc_[m][i], p[m], v[0], v[1]);
          Mma(acc_[m][i + 1], p[m], v[2], v[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void Finish(const PrefillArgs& a) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = sum_[m][half], middles = middles_[m][half];
        for (int step = 1; step <= 2; step *= 2) {
          sum += __shfl_xor_sync(kWholeWarp, sum, step);
          middles += __shfl_xor_sync(kWholeWarp, middles, step);
        }
        const int i = RowOf(m, half);
        if (i >= queries_.n) continue;
        const int64_t token = queries_.first_token + i / queries_.n_heads;
        const int of_group = queries_.first_head + i % queries_.n_heads;
        float* out = head_.out + token * a.q_stride + of_group * kDim + 2 * (lane_ % 4);
        const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
        for (int d = 0; d < kOutTiles; ++d) {
          const float* from = &acc_[m][d][2 * half];
          *reinterpret_cast<float2*>(out + 8 * d) =
              make_float2((from[0] + middles) * inverse, (from[1] + middles) * inverse);
        }
        if (lane_ % 4 == 0 && head_.lse != nullptr) {
          head_.lse[token * a.lse_stride + of_group] = max_[m][half] * kLn2 + logf(sum);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ int RowOf(int m, int half) const { return first_ + 16 * m + 8 * half + lane_ / 4; }

  template <class Do>
  __device__ __forceinline__ void ForScores(const Do& act) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < kScoreTiles; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) act(m, i / 2, 8 * j + 2 * (lane_ % 4) + i % 2, &score_[m][j][i]);
      }
    }
  }

  S* s_;
  const CudaPrefillHead& head_;
  const Queries& queries_;
  int lane_, first_;
  float q_sum_[2][2];
  float score_[2][kScoreTiles][4];
  float acc_[2][kOutTiles][4] = {};
  float max_[2][2];
  float sum_[2][2] = {}, middles_[2][2] = {};
};

template <KvType kType, int kDim>
__global__ void __launch_bounds__(kThreads)
    PrefillKernel(const __grid_constant__ PrefillHeads heads, const __grid_constant__ PrefillArgs a) {
  using S = Shared<kType, kDim>;
  DUO_SHARED_MEMORY(memory);
  auto* s = reinterpret_cast<S*>(memory);
  const CudaPrefillHead& head = heads.head[blockIdx.y];
  // The last tokens have the most to do and start first.
  const int64_t block = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x);
  Queries queries;
  queries.first_head = static_cast<int>(blockIdx.z) * a.group_step;
  queries.n_heads = a.group - queries.first_head < a.group_step ? a.group - queries.first_head : a.group_step;
  queries.first_token = block * a.tokens_step;
  const int64_t left = a.n_tokens - queries.first_token;
  const int n_tokens = static_cast<int>(left < a.tokens_step ? left : a.tokens_step);
  queries.n = n_tokens * queries.n_heads;
  queries.first_pos = a.q_pos + queries.first_token;
  queries.last_pos = queries.first_pos + n_tokens - 1;

  for (int i = static_cast<int>(threadIdx.x); i < kQueries * S::kChunks; i += kThreads) {
    const int row = i / S::kChunks, c = i % S::kChunks;
    Chunk chunk = {};
    if (row < queries.n) {
      const float* from = head.q + (queries.first_token + row / queries.n_heads) * a.q_stride +
                          (queries.first_head + row % queries.n_heads) * kDim + 8 * c;
      const float scale = a.scale * kLog2E;
#pragma unroll
      for (int w = 0; w < 4; ++w) chunk.word[w] = PackBf16(from[2 * w] * scale, from[2 * w + 1] * scale);
    }
    s->q[S::At(row, c)] = chunk;
  }
  int64_t row = NextTile(head, queries, 0);
  const auto hides = [&](int64_t r) { return r < head.n_rows && ViewOf(head, queries, r) == View::kSome; };
  bool hide = hides(row);
  if (row < head.n_rows) {
    if constexpr (S::kCodes) {
      FetchCodes<kType, kDim>(s, head, row);
    } else {
      FetchRows<kType, kDim>(s->k, head.k, head, queries, row, hide);
    }
  }
  CommitCopies();
  __syncthreads();
  WarpQueries<kType, kDim> warp(s, head, queries);
  while (row < head.n_rows) {
    const int64_t next = NextTile(head, queries, row + kRows);
    const bool next_hide = hides(next);
    WaitForCopies<0>();
    __syncthreads();  // and all warps are done with the tile before
    if constexpr (S::kCodes) {
      WidenCodes<kType, kDim>(s, head, queries, row, hide);
      __syncthreads();
      if (next < head.n_rows) FetchCodes<kType, kDim>(s, head, next);
      CommitCopies();
      warp.Scores();
    } else {
      FetchRows<kType, kDim>(s->v, head.v, head, queries, row, hide);
      CommitCopies();
      warp.Scores();
      WaitForCopies<0>();
      __syncthreads();  // all have read the keys
      if (next < head.n_rows) FetchRows<kType, kDim>(s->k, head.k, head, queries, next, next_hide);
      CommitCopies();
    }
    warp.Softmax(row, hide);
    warp.Values();
    row = next;
    hide = next_hide;
  }
  warp.Finish(a);
}

template <KvType kType, int kDim>
Status Start(CudaStream stream, const CudaAttentionShape& shape, unsigned n_heads, const PrefillHeads& heads) {
  const PrefillArgs args = PrefillArgsOf(shape, kQueries);
  return Launch(stream, "prefill attention", {PrefillGrid(args, n_heads), kThreads, sizeof(Shared<kType, kDim>)},
                PrefillKernel<kType, kDim>, heads, args);
}

template <int kDim>
Status StartDim(CudaStream stream, const CudaAttentionShape& shape, unsigned n_heads, const PrefillHeads& heads) {
  switch (shape.kv_type) {
    case KvType::kInt8: return Start<KvType::kInt8, kDim>(stream, shape, n_heads, heads);
    case KvType::kInt4: return Start<KvType::kInt4, kDim>(stream, shape, n_heads, heads);
    default: return Start<KvType::kBF16, kDim>(stream, shape, n_heads, heads);
  }
}

}  // namespace

Status LaunchPrefillTensor(CudaStream stream, const CudaAttentionShape& shape, unsigned n_heads,
                           const PrefillHeads& heads) {
  return shape.head_dim == 64 ? StartDim<64>(stream, shape, n_heads, heads)
                              : StartDim<128>(stream, shape, n_heads, heads);
}

}  // namespace duo
