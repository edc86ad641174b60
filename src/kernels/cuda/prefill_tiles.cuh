// Shared memory of the prefill kernel. It has a block's queries and one tile of keys and values, all as bf16. They come
// from activations, from a bf16 cache or from codes.
#pragma once

#include "kernels/cuda/centred_codes.cuh"
#include "kernels/cuda/prefill_mask.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/kv_codes.h"

namespace duo {

/// Rows of kDim bf16 numbers in chunks of 16 bytes. Chunk c of row r is at place c ^ (r % 8), so the eight rows that
/// one matrix takes lie in different banks.
template <KvType kType, int kDim>
struct PrefillShared {
  static constexpr bool kCodes = kType != KvType::kBF16;
  static constexpr int kChunks = kDim / 8;  // per row
  static constexpr int kCodeBytes = kType == KvType::kInt4 ? kDim / 2 : kDim;
  static constexpr int kBlockChunks = kCodeRows * (kCodeBytes + 4) / 16;
  static constexpr int kCodeChunks = kPrefillRows / kCodeRows * kBlockChunks;

  Chunk q[kPrefillQueries * kChunks], k[kPrefillRows * kChunks], v[kPrefillRows * kChunks];
  Chunk codes[2][kCodes ? kCodeChunks : 1];  // of keys and of values, as they lie in the cache
  uint32_t params[2][kCodes ? kPrefillRows : 1];

  __device__ __forceinline__ static int At(int row, int chunk) { return row * kChunks + (chunk ^ (row & 7)); }

  /// At(row + rows, chunk + chunks) from at = At(row, chunk). In the last three bits, row and rows must have no set bit
  /// in common, and chunk and chunks neither. If the compiler knows rows and chunks, this is one instruction. Then an
  /// unrolled loop keeps one address in a register instead of all.
  __device__ __forceinline__ static int Further(int at, int rows, int chunks) {
    return (at ^ ((rows ^ chunks) & 7)) + rows * kChunks + (chunks & ~7);
  }
};

/// Loads all queries of the block, times the scale with which a weight is exp2 of a score.
template <KvType kType, int kDim>
__device__ __forceinline__ void LoadQueries(PrefillShared<kType, kDim>* s, const PrefillHead& head,
                                            const PrefillQueries& queries, const PrefillArgs& a) {
  using S = PrefillShared<kType, kDim>;
  const float scale = a.scale * kLog2E;
  for (int i = static_cast<int>(threadIdx.x); i < kPrefillQueries * S::kChunks; i += kPrefillThreads) {
    const int row = i / S::kChunks, c = i % S::kChunks;
    Chunk chunk = {};
    if (row < queries.n) {
      const float* from = head.q + (queries.first_token + row / queries.n_heads) * a.q_stride +
                          (queries.first_head + row % queries.n_heads) * kDim + 8 * c;
#pragma unroll
      for (int w = 0; w < 4; ++w) chunk.word[w] = PackBf16(from[2 * w] * scale, from[2 * w + 1] * scale);
    }
    s->q[S::At(row, c)] = chunk;
  }
}

/// Starts to copy the seen rows of a tile of a bf16 cache, and writes zeros for the others. Those are not read, because
/// they may lie after the end of the cache or hold anything, and zero times a NaN is not zero.
template <KvType kType, int kDim>
__device__ __forceinline__ void FetchRows(Chunk* to, const uint8_t* rows, int row, TileBits seen) {
  using S = PrefillShared<kType, kDim>;
  constexpr int kAtOnce = kPrefillThreads / S::kChunks;  // rows
  const int first = static_cast<int>(threadIdx.x / S::kChunks), c = static_cast<int>(threadIdx.x % S::kChunks);
  const uint8_t* from = rows + int64_t{row + first} * (2 * kDim) + 16 * c;
  const TileBits there = seen >> first;
#pragma unroll
  for (int r = 0; r < kPrefillRows; r += kAtOnce) {
    CopyAsync(to + S::At(first + r, c), from + r * (2 * kDim), (there >> r & 1) != 0);
  }
}

/// Starts to copy the codes and parameters of a tile, without blocks whose rows are all at `end` or later.
template <KvType kType, int kDim>
__device__ __forceinline__ void FetchCodes(PrefillShared<kType, kDim>* s, const PrefillHead& head, int row, int end) {
  using S = PrefillShared<kType, kDim>;
  const int rows = end - row < kPrefillRows ? end - row : kPrefillRows;
  const int n_chunks = (rows + kCodeRows - 1) / kCodeRows * S::kBlockChunks, first = static_cast<int>(threadIdx.x);
  const int64_t from = 16 * (int64_t{row / kCodeRows} * S::kBlockChunks + first);
#pragma unroll
  for (int i = 0; i < S::kCodeChunks; i += kPrefillThreads) {
    if (first + i >= n_chunks) break;
    CopyAsync(&s->codes[0][first + i], head.k + from + 16 * i);
    CopyAsync(&s->codes[1][first + i], head.v + from + 16 * i);
  }
}

/// Starts to copy the first data that a tile needs: its codes, or its bf16 keys. Copies nothing if there is no tile
/// left.
template <KvType kType, int kDim>
__device__ __forceinline__ void FetchTile(PrefillShared<kType, kDim>* s, const PrefillHead& head, int row,
                                          const SeenRows& seen) {
  if (row < seen.end) {
    if constexpr (kType == KvType::kBF16) {
      FetchRows<kType, kDim>(s->k, head.k, row, SeenOf(seen, row));
    } else {
      FetchCodes(s, head, row, seen.end);
    }
  }
  CommitCopies();
}

/// Starts to copy the values of a bf16 tile.
template <KvType kType, int kDim>
__device__ __forceinline__ void FetchValues(PrefillShared<kType, kDim>* s, const PrefillHead& head, int row,
                                            const SeenRows& seen) {
  FetchRows<kType, kDim>(s->v, head.v, row, SeenOf(seen, row));
  CommitCopies();
}

/// Writes bytes [8 half, 8 half + 8) of a chunk.
__device__ __forceinline__ void PutHalf(Chunk* chunk, int half, uint32_t low, uint32_t high) {
  *reinterpret_cast<uint2*>(&chunk->word[2 * half]) = uint2{low, high};
}

/// Turns the codes of keys into bf16 numbers relative to the middle code. A chunk is four rows by four (int8) or eight
/// (int4) dimensions.
template <KvType kType, int kDim>
__device__ __forceinline__ void WidenKeys(PrefillShared<kType, kDim>* s) {
  using S = PrefillShared<kType, kDim>;
  constexpr bool kBytes = kType == KvType::kInt8;
  constexpr int kPerBlock = kCodeRows * S::kCodeBytes / 16, kAtOnce = kPrefillThreads / kPerBlock;
  const int first = static_cast<int>(threadIdx.x / kPerBlock), in = static_cast<int>(threadIdx.x % kPerBlock);
  const int quad = in % 4, across = in / 4, half = kBytes ? across % 2 : 0;
  const Chunk* from = &s->codes[0][first * S::kBlockChunks + in];
  const int at = S::At(first * kCodeRows + 4 * quad, kBytes ? across / 2 : across);
#pragma unroll
  for (int block = 0; block < kPrefillRows / kCodeRows; block += kAtOnce) {
    const Chunk codes = from[block * S::kBlockChunks];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const uint32_t w = codes.word[r];
      const uint32_t even = CentredCodes<kType>(w), odd = CentredCodes<kType>(w >> 8);
      Chunk* to = &s->k[S::Further(at, block * kCodeRows + r, 0)];
      PutHalf(to, half, LowHalves(even, odd), HighHalves(even, odd));
      if constexpr (!kBytes) {
        const uint32_t upper_even = CentredCodes<kType>(w >> 4), upper_odd = CentredCodes<kType>(w >> 12);
        PutHalf(to, 1, LowHalves(upper_even, upper_odd), HighHalves(upper_even, upper_odd));
      }
    }
  }
}

/// Does the same for values. A chunk is four (int8) or eight (int4) dimensions by four rows.
template <KvType kType, int kDim>
__device__ __forceinline__ void WidenValues(PrefillShared<kType, kDim>* s) {
  using S = PrefillShared<kType, kDim>;
  constexpr bool kBytes = kType == KvType::kInt8;
  constexpr int kPerBlock = kCodeRows * S::kCodeBytes / 16, kAtOnce = kPrefillThreads / kPerBlock;
  const int first = static_cast<int>(threadIdx.x / kPerBlock), in = static_cast<int>(threadIdx.x % kPerBlock);
  const int quad = in / (kPerBlock / 4), across = in % (kPerBlock / 4);
  const Chunk* from = &s->codes[1][first * S::kBlockChunks + in];
  const int at = S::At(first * kCodeRows + 4 * quad, kBytes ? across / 2 : across);
#pragma unroll
  for (int block = 0; block < kPrefillRows / kCodeRows; block += kAtOnce) {
    const Chunk codes = from[block * S::kBlockChunks];
#pragma unroll
    for (int part = 0; part < (kBytes ? 1 : 2); ++part) {
      uint32_t even[4], odd[4];  // rows 0 and 2, 1 and 3 of four dimensions
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        const uint32_t w = kBytes ? codes.word[d] : codes.word[2 * part + d / 2] >> (d % 2 * 4);
        even[d] = CentredCodes<kType>(w);
        odd[d] = CentredCodes<kType>(w >> 8);
      }
      const int half = kBytes ? across % 2 : part;
      const auto to = [&](int r) { return &s->v[S::Further(at, block * kCodeRows + r, 0)]; };
      PutHalf(to(0), half, LowHalves(even[0], even[1]), LowHalves(even[2], even[3]));
      PutHalf(to(1), half, LowHalves(odd[0], odd[1]), LowHalves(odd[2], odd[3]));
      PutHalf(to(2), half, HighHalves(even[0], even[1]), HighHalves(even[2], even[3]));
      PutHalf(to(3), half, HighHalves(odd[0], odd[1]), HighHalves(odd[2], odd[3]));
    }
  }
}

/// Saves the rows' parameters, because the next tile's codes will overwrite them. Rows that no query sees get zeros,
/// because their parameters may never have been written.
template <KvType kType, int kDim>
__device__ __forceinline__ void KeepParams(PrefillShared<kType, kDim>* s, TileBits seen) {
  using S = PrefillShared<kType, kDim>;
  static_assert(2 * kPrefillRows == kPrefillThreads);
  const int which = static_cast<int>(threadIdx.x / kPrefillRows), row = static_cast<int>(threadIdx.x % kPrefillRows);
  const Chunk* block = &s->codes[which][row / kCodeRows * S::kBlockChunks];
  const auto* params = reinterpret_cast<const uint32_t*>(block + kCodeRows * S::kCodeBytes / 16);
  s->params[which][row] = (seen >> row & 1) != 0 ? params[row % kCodeRows] : 0;
}

/// Turns the tile's codes into numbers. Their place is then free for the next tile's codes.
template <KvType kType, int kDim>
__device__ __forceinline__ void WidenTile(PrefillShared<kType, kDim>* s, TileBits seen) {
  WidenKeys(s);
  WidenValues(s);
  KeepParams(s, seen);
}

}  // namespace duo
