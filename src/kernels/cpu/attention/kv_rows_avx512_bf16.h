// The cache policy (cache_policy.h) of bf16 dot products. A unit is a pair of bf16, and one instruction adds two
// products to each float lane. In scores a pair is two dimensions, as in the cache. In outputs it is two keys, from two
// interleaved rows.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/cache_policy.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_avx512.h"

namespace duo {
namespace {

struct Bf16PairCache {
  using V = VecAvx512;
  using F = __m512;
  using Unit = __m512i;      // 16 pairs
  using Elements = __m512i;  // 32 elements of a row
  struct ValueUnits {
    Unit a, b;
  };
  static constexpr int kPerUnit = 2;
  using ScoreAcc = F;
  static constexpr int kKeyTile = 128;
  static constexpr int kKeyStep = 4;
  static constexpr int kDimsPerStep = 2;
  static constexpr bool kRoundsQueries = false;
  static constexpr int kElementBytes = 2;
  DUO_ALWAYS_INLINE size_t RowBytes(int head_dim) { return static_cast<size_t>(head_dim) * kElementBytes; }
  static constexpr int kQueryBytes = 2;

  DUO_ALWAYS_INLINE F MulAdd(Unit a, Unit b, F c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
  DUO_ALWAYS_INLINE ScoreAcc ZeroScore() { return V::Zero(); }
  DUO_ALWAYS_INLINE F ScoreMulAdd(Unit a, Unit b, F c) { return MulAdd(a, b, c); }
  DUO_ALWAYS_INLINE Unit BroadcastUnit(const void* p) {
    int32_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
  }
  DUO_ALWAYS_INLINE Unit LoadUnits(const void* p) { return _mm512_loadu_si512(p); }
  DUO_ALWAYS_INLINE F Dot(Elements k, Elements q, F acc) { return MulAdd(k, q, acc); }
  DUO_ALWAYS_INLINE F Exp2(F x) { return V::ShortExp2(x); }

  // 32 floats rounded to nearest even, with a in the lower half.
  DUO_ALWAYS_INLINE __m512i Round(F a, F b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }
  // n >= 1 floats as 16 pairs, padded with zeros.
  DUO_ALWAYS_INLINE Unit RoundUpTo32(const float* q, int n) {
    if (n >= 32) return Round(V::Load(q), V::Load(q + 16));
    if (n >= 16) return Round(V::Load(q), V::LoadPartial(q + 16, n - 16));
    return Round(V::LoadPartial(q, n), V::Zero());
  }
  // Returned as the bits of a float vector, because Transpose takes float vectors.
  DUO_ALWAYS_INLINE F LoadQueryUnits(const float* q, int n) { return _mm512_castsi512_ps(RoundUpTo32(q, n)); }

  DUO_ALWAYS_INLINE Elements LoadElements(const char* p) { return _mm512_loadu_si512(p); }
  DUO_ALWAYS_INLINE Elements LoadElementsPartial(const char* p, int n) {
    return _mm512_maskz_loadu_epi16(V::First32(n), p);
  }
  DUO_ALWAYS_INLINE void PrepareQuery(const float* q, int n, char* out) { _mm512_storeu_si512(out, RoundUpTo32(q, n)); }
  DUO_ALWAYS_INLINE Elements LoadQuery(const char* p) { return _mm512_loadu_si512(p); }

  DUO_ALWAYS_INLINE ValueUnits LoadValues(const char* row, const char* next) {
    const __m512i a = LoadElements(row), b = LoadElements(next);
    return {_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)};
  }
  DUO_ALWAYS_INLINE ValueUnits LoadValuesPartial(const char* row, const char* next, int n) {
    const __m512i a = LoadElementsPartial(row, n), b = LoadElementsPartial(next, n);
    return {_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)};
  }
  // The unpack instructions interleave inside 128-bit lanes: a has dimensions 0-3, 8-11, ..., and b has the others.
  DUO_ALWAYS_INLINE void RestoreDims(F* a, F* b) {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    const F first = _mm512_permutex2var_ps(*a, low, *b);
    *b = _mm512_permutex2var_ps(*a, high, *b);
    *a = first;
  }

  DUO_ALWAYS_INLINE void StoreWeights(float* w, int i, F p0, F p1) { _mm512_storeu_si512(w + i / 2, Round(p0, p1)); }
  DUO_ALWAYS_INLINE void StoreWeightRows(float* tile, int row, int pitch, int lane, F p0, F p1) {
    _mm512_storeu_si512(tile + row / 2 * pitch + lane, _mm512_permutexvar_epi16(Interleave(), Round(p0, p1)));
  }
  // The indices 0, 16, 1, 17, ... 15, 31.
  DUO_ALWAYS_INLINE __m512i Interleave() {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_or_si512(low, _mm512_slli_epi32(_mm512_add_epi32(low, _mm512_set1_epi32(16)), 16));
  }

  static TileRows PrepareKeys(const char* base, int64_t row, int64_t, int head_dim, int, float*, TileParams) {
    const size_t row_bytes = RowBytes(head_dim);
    return {base + row * row_bytes, row_bytes};
  }
  // tile[pair][d] = values (2 pair, 2 pair + 1) of dimension d; a missing last row counts as zero.
  static TileRows PrepareValues(const char* base, int64_t first, int64_t n, int head_dim, int padded_dim, float* tile) {
    const size_t row_bytes = RowBytes(head_dim);
    const char* rows = base + first * row_bytes;
    const __m512i low = Interleave32(0), high = Interleave32(16);
    for (int64_t r = 0; r < n; r += 2) {
      const char* row = rows + r * row_bytes;
      float* out = tile + static_cast<size_t>(r / 2) * padded_dim;
      for (int d = 0; d < head_dim; d += 32) {
        const __mmask32 mask = head_dim - d >= 32 ? ~__mmask32{0} : V::First32(head_dim - d);
        const __m512i a = _mm512_maskz_loadu_epi16(mask, row + 2 * d);
        const __m512i b = r + 1 < n ? _mm512_maskz_loadu_epi16(mask, row + row_bytes + 2 * d) : _mm512_setzero_si512();
        _mm512_storeu_si512(out + d, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(out + d + 16, _mm512_permutex2var_epi16(a, high, b));
      }
    }
    return {reinterpret_cast<const char*>(tile), padded_dim * sizeof(float)};
  }
  // The indices first, 32 + first, first + 1, 32 + first + 1, ... into two vectors.
  DUO_ALWAYS_INLINE __m512i Interleave32(int first) {
    const __m512i low = _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                         _mm512_set1_epi32(first));
    return _mm512_or_si512(low, _mm512_slli_epi32(_mm512_add_epi32(low, _mm512_set1_epi32(32)), 16));
  }
};

}  // namespace
}  // namespace duo
