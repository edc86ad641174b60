// Decode attention on tensor cores. A warp has the queries of one KV head as the rows of its products, padded to 16,
// and walks over tiles of the cache with an online softmax (arXiv:1805.02867). Keys and values go from memory to the
// registers of the lane that multiplies them: which of the 16 summed numbers of a product is which dimension or row is
// free as long as both sides agree, and is chosen so that every lane needs whole 16-byte pieces of the cache as it lies
// (docs/formats.md). A lane copies its pieces some tiles ahead into shared memory that only itself reads.
#include <algorithm>

#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/kv_codes.h"

namespace duo {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

/// Tiles of plain bf16 rows: 16 keys, key 8 j + n is column n of score tile j.
template <KvType kType, int kDim>
struct Tile {
  static constexpr int kRows = 16, kScoreTiles = 2, kSums = 1;
  static constexpr int kKeyChunks = 2 * kDim / 32, kChunks = 2 * kKeyChunks;

  /// The first tile's first row of a piece, and dimension pair i of step s of lane t: dims of a[2 i], a[2 i + 1].
  __device__ __forceinline__ static int64_t FirstRow(int64_t begin) { return begin; }
  __device__ __forceinline__ static int Dim(int s, int t, int i, int in) {
    return s / 2 * 32 + 8 * t + s % 2 * 4 + 2 * i + in;
  }
  /// Of lane t: the row of score c[e] of tile j.
  __device__ __forceinline__ static int Row(int t, int j, int e) { return 8 * j + 2 * t + e; }

  __device__ __forceinline__ static void Fetch(Chunk* mine, const CudaDecodeHead& head, int64_t row, PieceRows piece,
                                               int g, int t) {
    // A row behind the piece is read as its last one: it is hidden, but must be a number.
    const auto at = [&](const uint8_t* rows, int r) {
      const int64_t there = row + r < piece.end ? row + r : piece.end - 1;
      return rows + there * (2 * kDim);
    };
    for (int j = 0; j < 2; ++j) {
      const uint8_t* key = at(head.k, 8 * j + g) + 16 * t;
      for (int c = 0; c < kDim / 32; ++c) CopyAsync(mine + kWarp * (j * (kDim / 32) + c), key + 64 * c);
    }
    for (int i = 0; i < 4; ++i) {
      const uint8_t* value = at(head.v, i / 2 * 8 + 2 * t + i % 2) + 16 * g;
      for (int c = 0; c < kDim / 64; ++c) {
        CopyAsync(mine + kWarp * (kKeyChunks + i * (kDim / 64) + c), value + 128 * c);
      }
    }
  }

  __device__ __forceinline__ static void Scores(const Chunk* mine, const uint32_t q[][4], float s[][4]) {
#pragma unroll
    for (int j = 0; j < kScoreTiles; ++j) {
#pragma unroll
      for (int c = 0; c < kDim / 32; ++c) {
        const Chunk k = mine[kWarp * (j * (kDim / 32) + c)];
        Mma(s[j], q[2 * c], k.word[0], k.word[1]);
        Mma(s[j], q[2 * c + 1], k.word[2], k.word[3]);
      }
    }
  }

  /// acc tile i: column n is dimension i / 8 * 64 + 8 n + i % 8.
  __device__ __forceinline__ static int OutDim(int i, int n) { return i / 8 * 64 + 8 * n + i % 8; }
  __device__ __forceinline__ static void Values(const Chunk* mine, const uint32_t p[][4], float acc[][4]) {
    mine += kWarp * kKeyChunks;
#pragma unroll
    for (int c = 0; c < kDim / 64; ++c) {
      const Chunk a = mine[kWarp * c], b = mine[kWarp * (kDim / 64 + c)];
      const Chunk d = mine[kWarp * (2 * (kDim / 64) + c)], e = mine[kWarp * (3 * (kDim / 64) + c)];
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        Mma(acc[8 * c + 2 * w], p[0], LowHalves(a.word[w], b.word[w]), LowHalves(d.word[w], e.word[w]));
        Mma(acc[8 * c + 2 * w + 1], p[0], HighHalves(a.word[w], b.word[w]), HighHalves(d.word[w], e.word[w]));
      }
    }
  }
  /// Scores c[first], c[first + 1] of every tile as the left side of product `sum`.
  __device__ __forceinline__ static void Weights(const float s[][4], int, int first, uint32_t* low, uint32_t* high) {
    *low = PackBf16(s[0][first], s[0][first + 1]);
    *high = PackBf16(s[1][first], s[1][first + 1]);
  }
};

/// Tiles of codes: two blocks of 16 rows. Four neighbouring keys of a chunk are column n of score tiles 0..3: row
/// 16 b + 4 m + j is column 4 b + m of tile j, so that lane t has the scores of rows 8 t .. 8 t + 7.
template <KvType kType, int kDim>
struct CodeTile {
  static constexpr bool kBytes = kType == KvType::kInt8;
  static constexpr int kRows = 32, kScoreTiles = 4, kSums = 2;
  static constexpr int kPerChunk = kBytes ? 4 : 8;  // dimensions
  static constexpr int kKeyChunks = kDim / (4 * kPerChunk), kValueChunks = kDim / (8 * kPerChunk);
  static constexpr int kParams = kKeyChunks + 2 * kValueChunks;  // 2 chunks of keys' parameters, 2 of values'
  static constexpr int kChunks = kParams + 4;
  static constexpr int kCodeBytes = kDim * kPerChunk / (kBytes ? 4 : 16);
  static constexpr int kBlockBytes = kCodeRows * (kCodeBytes + 4);

  __device__ __forceinline__ static int64_t FirstRow(int64_t begin) { return begin / kCodeRows * kCodeRows; }
  __device__ __forceinline__ static int Dim(int s, int t, int i, int in) {
    const int chunk = kBytes ? s : s / 2;
    return kPerChunk * (t + 4 * chunk) + (kBytes ? 0 : s % 2 * 4) + i + 2 * in;
  }
  __device__ __forceinline__ static int Row(int t, int j, int e) { return 8 * t + 4 * e + j; }

  __device__ __forceinline__ static void Fetch(Chunk* mine, const CudaDecodeHead& head, int64_t row, PieceRows piece,
                                               int g, int t) {
    const int64_t first = row / kCodeRows, last = (piece.end - 1) / kCodeRows;
    const auto block = [&](const uint8_t* rows, int b) {
      return rows + (first + b < last ? first + b : last) * kBlockBytes;
    };
    const uint8_t* key = block(head.k, g / 4) + 16 * (g % 4) + 64 * t;
    for (int c = 0; c < kKeyChunks; ++c) CopyAsync(mine + kWarp * c, key + 256 * c);
    const uint8_t* values = block(head.v, t / 2);
    const uint8_t* value = values + 4 * kCodeBytes * (2 * (t % 2)) + 16 * g;
    for (int e = 0; e < 2; ++e) {
      for (int c = 0; c < kValueChunks; ++c) {
        CopyAsync(mine + kWarp * (kKeyChunks + e * kValueChunks + c), value + 4 * kCodeBytes * e + 128 * c);
      }
    }
    const uint8_t* params[2] = {block(head.k, t / 2), values};
    for (int i = 0; i < 4; ++i) {
      CopyAsync(mine + kWarp * (kParams + i), params[i / 2] + kCodeRows * kCodeBytes + 32 * (t % 2) + 16 * (i % 2));
    }
  }

  __device__ __forceinline__ static void Scores(const Chunk* mine, const uint32_t q[][4], float s[][4]) {
#pragma unroll
    for (int c = 0; c < kKeyChunks; ++c) {
      const Chunk k = mine[kWarp * c];
#pragma unroll
      for (int j = 0; j < kScoreTiles; ++j) {
        const uint32_t w = k.word[j];
        if constexpr (kBytes) {
          Mma(s[j], q[c], CentredCodes<kType>(w), CentredCodes<kType>(w >> 8));
        } else {
          Mma(s[j], q[2 * c], CentredCodes<kType>(w), CentredCodes<kType>(w >> 8));
          Mma(s[j], q[2 * c + 1], CentredCodes<kType>(w >> 4), CentredCodes<kType>(w >> 12));
        }
      }
    }
  }
  /// Parameters of score c[e] of tile j, of keys (0) or values (1).
  __device__ __forceinline__ static StepAndMiddle Params(const Chunk* mine, int which, int j, int e) {
    return StepOf<kType>(mine[kWarp * (kParams + 2 * which + e)].word[j]);
  }

  __device__ __forceinline__ static int OutDim(int i, int n) {
    return kBytes ? i / 4 * 32 + 4 * n + i % 4 : i / 8 * 64 + 8 * n + i % 8;
  }
  __device__ __forceinline__ static void Values(const Chunk* mine, const uint32_t p[][4], float acc[][4]) {
    mine += kWarp * kKeyChunks;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int c = 0; c < kValueChunks; ++c) {
        const Chunk v = mine[kWarp * (e * kValueChunks + c)];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t w = v.word[i];
          if constexpr (kBytes) {
            Mma(acc[4 * c + i], p[e], CentredCodes<kType>(w), CentredCodes<kType>(w >> 8));
          } else {
            Mma(acc[8 * c + 2 * i], p[e], CentredCodes<kType>(w), CentredCodes<kType>(w >> 8));
            Mma(acc[8 * c + 2 * i + 1], p[e], CentredCodes<kType>(w >> 4), CentredCodes<kType>(w >> 12));
          }
        }
      }
    }
  }
  __device__ __forceinline__ static void Weights(const float s[][4], int sum, int first, uint32_t* low,
                                                 uint32_t* high) {
    *low = PackBf16(s[0][first + sum], s[2][first + sum]);
    *high = PackBf16(s[1][first + sum], s[3][first + sum]);
  }
};

template <int kDim>
struct Tile<KvType::kInt8, kDim> : CodeTile<KvType::kInt8, kDim> {};
template <int kDim>
struct Tile<KvType::kInt4, kDim> : CodeTile<KvType::kInt4, kDim> {};

/// What a lane knows of the softmax of query row g, or g + 8: of its own columns, but for max.
struct RowState {
  float max, sum, middles;  // middles: sum of weights times the values' middles
};

/// Tiles that a lane has in shared memory: two or three, so that two blocks fit a multiprocessor of a data centre's
/// GPU, and one the 99 KiB of others.
template <KvType kType, int kDim>
constexpr int kStagesOf = Tile<kType, kDim>::kChunks > 16 ? 2 : 3;

template <KvType kType, int kDim>
constexpr size_t SharedBytes() {
  const size_t stages = size_t{kWarps} * kStagesOf<kType, kDim> * Tile<kType, kDim>::kChunks * kWarp * sizeof(Chunk);
  const size_t merge = size_t{kWarps} * kMergeQueries * (kDim + 2) * sizeof(float);
  return std::max({stages, merge, kMergeFloats * sizeof(float)});
}

/// kHalves: 2 where a block has more than 8 queries.
template <KvType kType, int kDim, int kHalves>
__global__ void __launch_bounds__(kThreads, 2)
    DecodeKernel(const __grid_constant__ DecodeHeads heads, const __grid_constant__ DecodeArgs a) {
  using T = Tile<kType, kDim>;
  constexpr bool kCodes = kType != KvType::kBF16;
  constexpr int kSteps = kDim / 16, kOutTiles = kDim / 8, kStages = kStagesOf<kType, kDim>;
  DUO_SHARED_MEMORY(shared);
  const CudaDecodeHead& head = heads.head[blockIdx.y];
  const int n_pieces = heads.n_pieces[blockIdx.y];
  const int piece_index = static_cast<int>(blockIdx.x);
  if (piece_index >= n_pieces) return;
  const int first_query = static_cast<int>(blockIdx.z) * kMergeQueries;
  const int n_queries = a.group - first_query < kMergeQueries ? a.group - first_query : kMergeQueries;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int g = lane / 4, t = lane % 4;
  const float kNone = -__uint_as_float(0x7f800000u);

  const PieceRows piece = RowsOfPiece(head, piece_index, a.rows_per_piece);
  const int64_t first_row = T::FirstRow(piece.begin);
  const int n_tiles = static_cast<int>((piece.end - first_row + T::kRows - 1) / T::kRows);
  auto* stages = reinterpret_cast<Chunk*>(shared) + warp * kStages * T::kChunks * kWarp + lane;
  const auto fetch = [&](int n) {
    const int tile = warp + n * kWarps;
    if (tile < n_tiles) {
      T::Fetch(stages + n % kStages * T::kChunks * kWarp, head, first_row + int64_t{tile} * T::kRows, piece, g, t);
    }
    CommitCopies();
  };
  for (int n = 0; n < kStages - 1; ++n) fetch(n);

  uint32_t q[kSteps][4];
  float q_sum[2] = {0, 0};
  const float q_scale = a.scale * kLog2E;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = g + 8 * half;
      const float* from = head.q + (first_query + query) * kDim;
      const bool some = query < n_queries;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float x = some ? from[T::Dim(s, t, i, 0)] * q_scale : 0.0f;
        const float y = some ? from[T::Dim(s, t, i, 1)] * q_scale : 0.0f;
        const uint32_t pair = PackBf16(x, y);
        q[s][2 * i + half] = pair;
        q_sum[half] += LowFloat(pair) + HighFloat(pair);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    q_sum[half] += __shfl_xor_sync(kWholeWarp, q_sum[half], 1);
    q_sum[half] += __shfl_xor_sync(kWholeWarp, q_sum[half], 2);
  }

  float acc[kOutTiles][4] = {};
  RowState rows[2] = {{kNone, 0, 0}, {kNone, 0, 0}};
  for (int n = 0, tile = warp; tile < n_tiles; ++n, tile += kWarps) {
    WaitForCopies<kStages - 2>();
    fetch(n + kStages - 1);
    const Chunk* mine = stages + n % kStages * T::kChunks * kWarp;
    float s[T::kScoreTiles][4] = {};
    T::Scores(mine, q, s);
    if constexpr (kCodes) {
#pragma unroll
      for (int j = 0; j < T::kScoreTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const StepAndMiddle of = T::Params(mine, 0, j, e);
#pragma unroll
          for (int half = 0; half < kHalves; ++half) {
            s[j][2 * half + e] = of.step * s[j][2 * half + e] + of.middle * q_sum[half];
          }
        }
      }
    }
    const int64_t row = first_row + int64_t{tile} * T::kRows;
    const bool edge = row < piece.begin || row + T::kRows > piece.end;
    if (edge) {
#pragma unroll
      for (int j = 0; j < T::kScoreTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int64_t key = row + T::Row(t, j, e);
          if (key >= piece.begin && key < piece.end) continue;
          s[j][e] = s[j][2 + e] = kNone;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      float max = rows[half].max;
#pragma unroll
      for (int j = 0; j < T::kScoreTiles; ++j) max = fmaxf(max, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
      max = fmaxf(max, __shfl_xor_sync(kWholeWarp, max, 1));
      max = fmaxf(max, __shfl_xor_sync(kWholeWarp, max, 2));
      const float base = max == kNone ? 0.0f : max;
      const float rescale = Exp2(rows[half].max - base);
      rows[half].max = max;
      rows[half].sum *= rescale;
      rows[half].middles *= rescale;
#pragma unroll
      for (int i = 0; i < kOutTiles; ++i) acc[i][2 * half] *= rescale, acc[i][2 * half + 1] *= rescale;
#pragma unroll
      for (int j = 0; j < T::kScoreTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float p = Exp2(s[j][2 * half + e] - base);
          s[j][2 * half + e] = p;
          rows[half].sum += p;
        }
      }
    }
    if constexpr (kCodes) {
#pragma unroll
      for (int j = 0; j < T::kScoreTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const StepAndMiddle of = T::Params(mine, 1, j, e);
          // A hidden row's parameters may never have been written.
          const int64_t key = row + T::Row(t, j, e);
          const bool hidden = edge && (key < piece.begin || key >= piece.end);
#pragma unroll
          for (int half = 0; half < kHalves; ++half) {
            float* p = &s[j][2 * half + e];
            rows[half].middles += hidden ? 0.0f : *p * of.middle;
            *p = hidden ? 0.0f : *p * of.step;
          }
        }
      }
    }
    uint32_t p[T::kSums][4] = {};
#pragma unroll
    for (int sum = 0; sum < T::kSums; ++sum) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) T::Weights(s, sum, 2 * half, &p[sum][half], &p[sum][2 + half]);
    }
    T::Values(mine, p, acc);
  }

  // The states of the warps, then of the pieces.
  WaitForCopies<0>();
  __syncthreads();
  auto* merge = reinterpret_cast<float*>(shared);  // [warp, query]: max, sum, acc
  const auto state = [&](int w, int query) { return merge + (w * kMergeQueries + query) * (kDim + 2); };
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    for (int step = 1; step <= 2; step *= 2) {
      rows[half].sum += __shfl_xor_sync(kWholeWarp, rows[half].sum, step);
      rows[half].middles += __shfl_xor_sync(kWholeWarp, rows[half].middles, step);
    }
    float* to = state(warp, g + 8 * half);
    if (t == 0) to[0] = rows[half].max * kLn2, to[1] = rows[half].sum;
#pragma unroll
    for (int i = 0; i < kOutTiles; ++i) {
      to[2 + T::OutDim(i, 2 * t)] = acc[i][2 * half] + rows[half].middles;
      to[2 + T::OutDim(i, 2 * t + 1)] = acc[i][2 * half + 1] + rows[half].middles;
    }
  }
  __syncthreads();
  for (int i = thread; i < n_queries * kDim; i += kThreads) {
    const int query = i / kDim, d = i % kDim;
    const MergedState merged = MergeStates(kWarps, d, [&](int w) { return state(w, query); });
    if (n_pieces == 1) {
      FinishQuery(head, a, first_query + query, d, merged);
      continue;
    }
    float* to = StateOf(a, heads.first_piece[blockIdx.y] + piece_index, first_query + query);
    if (d == 0) to[0] = merged.max, to[1] = merged.sum;
    to[kStateHeader + d] = merged.acc;
  }
  if (n_pieces == 1) return;
  if (IsLastPiece(a, n_pieces, reinterpret_cast<int*>(shared))) {
    MergePieces(head, a, heads.first_piece[blockIdx.y], n_pieces, first_query, n_queries, merge);
  }
}

template <KvType kType, int kDim>
Status Start(CudaStream stream, const CudaAttentionShape& shape, dim3 grid, const DecodeHeads& heads,
             const DecodeArgs& args) {
  static_assert(SharedBytes<kType, kDim>() <= size_t{99} << 10, "more than some GPUs have");
  const LaunchShape launch{grid, kThreads, SharedBytes<kType, kDim>()};
  auto* kernel = shape.group > 8 ? DecodeKernel<kType, kDim, 2> : DecodeKernel<kType, kDim, 1>;
  return Launch(stream, "decode attention", launch, kernel, heads, args);
}

template <int kDim>
Status StartDim(CudaStream stream, const CudaAttentionShape& shape, dim3 grid, const DecodeHeads& heads,
                const DecodeArgs& args) {
  switch (shape.kv_type) {
    case KvType::kInt8: return Start<KvType::kInt8, kDim>(stream, shape, grid, heads, args);
    case KvType::kInt4: return Start<KvType::kInt4, kDim>(stream, shape, grid, heads, args);
    default: return Start<KvType::kBF16, kDim>(stream, shape, grid, heads, args);
  }
}

}  // namespace

Status LaunchDecodeTensor(CudaStream stream, const CudaAttentionShape& shape, dim3 grid, const DecodeHeads& heads,
                          const DecodeArgs& args) {
  grid.z = GridOf(shape.group, kMergeQueries);
  return shape.head_dim == 64 ? StartDim<64>(stream, shape, grid, heads, args)
                              : StartDim<128>(stream, shape, grid, heads, args);
}

}  // namespace duo
