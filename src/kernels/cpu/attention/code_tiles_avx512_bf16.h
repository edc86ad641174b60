// Tiles of prefill_loop.h made from codes (code_tiles.h), for CPUs with integer and bf16 dot products. Scores are
// products of codes and queries rounded to 8 bits, with 4 dimensions per unit. Values become bf16 numbers, in pairs of
// rows.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/code_products_avx512_vnni.h"
#include "kernels/cpu/attention/code_tiles.h"
#include "kernels/cpu/attention/kv_rows_avx512_bf16.h"
#include "kernels/cpu/attention/prefill_plan.h"
#include "kernels/cpu/vec/inline.h"

namespace duo {
namespace {

template <int bits>
struct DotCodeTiles : Bf16PairCache {
  using Codes = DotCodes<bits>;
  using ScoreAcc = __m512i;
  static constexpr int kColumns = kMaxKeyColumns;
  static constexpr int kKeyStep = 4 * kColumns;
  static constexpr int kDimsPerStep = 4;
  static constexpr bool kRoundsQueries = true;
  static_assert(kColumns >= kKeyTile + kCodeRows && kColumns / kDimsPerStep <= kTileUnits);

  DUO_ALWAYS_INLINE ScoreAcc ZeroScore() { return _mm512_setzero_si512(); }
  DUO_ALWAYS_INLINE ScoreAcc ScoreMulAdd(Unit key, Unit query, ScoreAcc acc) { return DotBytes(key, query, acc); }
  DUO_ALWAYS_INLINE size_t RowBytes(int head_dim) { return CodeBytes(bits, head_dim) + 4; }
  // Dimensions [d, d + 64) of a query as 16 units. *step gets the query's step, and *sum the sum of its bytes.
  DUO_ALWAYS_INLINE F RoundQueryUnits(const float* q, int head_dim, int d, float* step, float* sum) {
    const RoundedQuery query = RoundedQuery::Of(q, head_dim);
    *step = query.facts.step;
    *sum = query.byte_sum;
    return _mm512_castsi512_ps(query.Bytes(q + d, head_dim - d));
  }
  // The score in steps of the query.
  DUO_ALWAYS_INLINE F ToScore(ScoreAcc acc, float step, float low, F query_sums) {
    return V::Fma(_mm512_cvtepi32_ps(acc), V::Set(step), V::Mul(V::Set(low), query_sums));
  }

  static TileRows PrepareKeys(const char* base, int64_t row, int64_t n, int head_dim, int, float* tile,
                              TileParams params) {
    const int code_bytes = CodeBytes(bits, head_dim);
    const int64_t offset = row % kCodeRows;
    for (int64_t at = row; at < row + n; at += kCodeRows - at % kCodeRows) {
      const CodeBlock b = BlockAt(base, code_bytes, row, n, at);
      const int64_t column = at - b.first - row + offset;
      const __m512i raw = _mm512_loadu_si512(b.params);
      V::Store(params.step + column, _mm512_castsi512_ps(_mm512_slli_epi32(raw, 16)));
      V::Store(params.low + column, _mm512_castsi512_ps(_mm512_and_si512(raw, _mm512_set1_epi32(~0xffff))));
      float* out = tile + column;
      for (int word = 0; word < code_bytes / 4; ++word) {
        __m512i code[Codes::kKeyCodes];
        Codes::SplitKeys(b.codes + 64 * word, code);
        for (int i = 0; i < Codes::kKeyCodes; ++i, out += kColumns) _mm512_storeu_si512(out, code[i]);
      }
    }
    return {reinterpret_cast<const char*>(tile + offset), 4};
  }

  // 16 codes of one row of four, as floats; `shift` selects the row's bits in each word.
  DUO_ALWAYS_INLINE F RowCodes(__m512i words, int shift) {
    const __m512i mask = _mm512_set1_epi32(bits == 8 ? 255 : 15);
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srlv_epi32(words, _mm512_set1_epi32(shift)), mask));
  }

  static TileRows PrepareValues(const char* base, int64_t row, int64_t n, int head_dim, int padded_dim, float* tile) {
    constexpr int kWidth = Codes::kOutputs * 16;
    const int code_bytes = CodeBytes(bits, head_dim);
    if (n % 2 != 0) {  // the last pair's second row counts as zero
      float* last = tile + n / 2 * padded_dim;
      for (int d = 0; d < padded_dim; d += 16) V::Store(last + d, V::Zero());
    }
    for (int64_t at = row; at < row + n; at += kCodeRows - at % kCodeRows) {
      const CodeBlock b = BlockAt(base, code_bytes, row, n, at);
      for (int r = b.first; r < b.last; ++r) {
        const StepAndLow p = ParamsOf(b.params, r);
        const F step = V::Set(p.step), low = V::Set(p.low);
        const int64_t to = b.row + r - b.first;
        float* out = tile + to / 2 * padded_dim;
        const char* words = b.codes + 4 * (r / 4 * code_bytes);
        for (int d = 0; d < head_dim; d += kWidth) {
          const __m512i x = _mm512_loadu_si512(words + 4 * (d / Codes::kOutputs));
          F first = V::Fma(step, RowCodes(x, r % 4 * 8), low), second = first;
          if constexpr (bits == 4) {
            second = V::Fma(step, RowCodes(x, r % 4 * 8 + 4), low);
            V::Interleave(&first, &second);
            StoreHalf(out + d + 16, second, to % 2 != 0);
          }
          StoreHalf(out + d, first, to % 2 != 0);
        }
      }
    }
    return {reinterpret_cast<const char*>(tile), padded_dim * sizeof(float)};
  }
  // Stores x as bf16 into the low or the high halves of 16 units.
  DUO_ALWAYS_INLINE void StoreHalf(float* out, F x, bool high) {
    const __m512i half = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
    if (high) {
      _mm512_mask_storeu_epi16(out, 0xaaaaaaaa, _mm512_slli_epi32(half, 16));
    } else {
      _mm512_mask_storeu_epi16(out, 0x55555555, half);
    }
  }
};
static_assert(RoundedScores<DotCodeTiles<8>, VecAvx512> && RoundedScores<DotCodeTiles<4>, VecAvx512>);

}  // namespace
}  // namespace duo
