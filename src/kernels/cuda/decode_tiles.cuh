// Tiles of the cache in decode attention: the rows and dimensions that a lane has, and how it copies its part to shared
// memory and multiplies it.
//
// Keys and values go from memory to the registers of the lane that multiplies them. A product sums over 16 numbers. Any
// order of these dimensions or rows is allowed, as long as both operands agree. The order here is chosen so that every
// lane needs whole 16-byte pieces of the cache as it lies in memory (docs/formats.md).
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/centred_codes.cuh"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/kv_codes.h"

namespace duo {

/// Tiles of plain bf16 rows. A tile has 16 keys, and key 8 j + n is column n of score tile j.
template <KvType kType, int kDim>
struct DecodeTile {
  static constexpr int kRows = 16, kScoreTiles = 2, kSums = 1;
  static constexpr int kKeyChunks = 2 * kDim / 32, kChunks = 2 * kKeyChunks;

  /// FirstRow: the first row of a piece's first tile. Dim: dimension `in` of pair i in step s of lane t. The pair is in
  /// a[2 i] and a[2 i + 1].
  __device__ __forceinline__ static int64_t FirstRow(int64_t begin) { return begin; }
  __device__ __forceinline__ static int Dim(int s, int t, int i, int in) {
    return s / 2 * 32 + 8 * t + s % 2 * 4 + 2 * i + in;
  }
  /// The row of lane t's score c[e] of tile j.
  __device__ __forceinline__ static int Row(int t, int j, int e) { return 8 * j + 2 * t + e; }

  __device__ __forceinline__ static void Fetch(Chunk* mine, const DecodeHead& head, int64_t row, RowRange piece, int g,
                                               int t) {
    // For a row after the piece this reads the piece's last row. The row is hidden, but must hold numbers.
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

  /// In acc tile i, column n is dimension i / 8 * 64 + 8 n + i % 8.
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
  /// Packs scores c[first], c[first + 1] of every tile as the left operand of product `sum`.
  __device__ __forceinline__ static void Weights(const float s[][4], int, int first, uint32_t* low, uint32_t* high) {
    *low = PackBf16(s[0][first], s[0][first + 1]);
    *high = PackBf16(s[1][first], s[1][first + 1]);
  }
};

/// Tiles of codes. A tile has two blocks of 16 rows. The four neighbouring keys of a chunk are column n of score tiles
/// 0..3. Row 16 b + 4 m + j is column 4 b + m of tile j, so lane t has the scores of rows 8 t .. 8 t + 7.
template <KvType kType, int kDim>
struct DecodeCodeTile {
  static constexpr bool kBytes = kType == KvType::kInt8;
  static constexpr int kRows = 32, kScoreTiles = 4, kSums = 2;
  static constexpr int kPerChunk = kBytes ? 4 : 8;  // dimensions
  static constexpr int kKeyChunks = kDim / (4 * kPerChunk), kValueChunks = kDim / (8 * kPerChunk);
  static constexpr int kParams = kKeyChunks + 2 * kValueChunks;  // 2 chunks of the keys' parameters, 2 of the values'
  static constexpr int kChunks = kParams + 4;
  static constexpr int kCodeBytes = kDim * kPerChunk / (kBytes ? 4 : 16);
  static constexpr int kBlockBytes = kCodeRows * (kCodeBytes + 4);

  __device__ __forceinline__ static int64_t FirstRow(int64_t begin) { return begin / kCodeRows * kCodeRows; }
  __device__ __forceinline__ static int Dim(int s, int t, int i, int in) {
    const int chunk = kBytes ? s : s / 2;
    return kPerChunk * (t + 4 * chunk) + (kBytes ? 0 : s % 2 * 4) + i + 2 * in;
  }
  __device__ __forceinline__ static int Row(int t, int j, int e) { return 8 * t + 4 * e + j; }

  __device__ __forceinline__ static void Fetch(Chunk* mine, const DecodeHead& head, int64_t row, RowRange piece, int g,
                                               int t) {
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
  /// Parameters of the row of score c[e] of tile j, as a key (which = 0) or a value (which = 1).
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
struct DecodeTile<KvType::kInt8, kDim> : DecodeCodeTile<KvType::kInt8, kDim> {};
template <int kDim>
struct DecodeTile<KvType::kInt4, kDim> : DecodeCodeTile<KvType::kInt4, kDim> {};

}  // namespace duo
