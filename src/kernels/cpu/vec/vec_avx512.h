// Vectors of 16 floats with AVX-512 F, BW, VL, DQ. vec_concept.h says what each member does.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vec/exp2.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"

namespace duo {
namespace {

struct VecAvx512 {
  using F = __m512;
  typedef uint32_t Bits __attribute__((vector_size(64)));   // the bits of F's lanes
  typedef uint64_t Words __attribute__((vector_size(64)));  // the same bits in larger lanes
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 8;  // 8 x 3 accumulators, 3 vectors of queries, 1 broadcast: 28 of 32 registers
  static constexpr int kDecodeVectors = 4;

  DUO_ALWAYS_INLINE F Zero() { return _mm512_setzero_ps(); }
  DUO_ALWAYS_INLINE F Set(float x) { return _mm512_set1_ps(x); }
  DUO_ALWAYS_INLINE F Load(const void* p) { return _mm512_loadu_ps(p); }
  DUO_ALWAYS_INLINE void Store(void* p, F x) { _mm512_storeu_ps(p, x); }
  DUO_ALWAYS_INLINE __mmask16 First(int n) { return (1u << n) - 1u; }
  DUO_ALWAYS_INLINE __mmask32 First32(int n) { return (uint64_t{1} << n) - 1u; }
  DUO_ALWAYS_INLINE F LoadPartial(const void* p, int n) { return _mm512_maskz_loadu_ps(First(n), p); }
  DUO_ALWAYS_INLINE void StorePartial(float* p, F x, int n) { _mm512_mask_storeu_ps(p, First(n), x); }

  DUO_ALWAYS_INLINE __m128i Load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  DUO_ALWAYS_INLINE __m256i Load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  // The low bytes of the lanes.
  DUO_ALWAYS_INLINE void StoreBytes(void* p, __m512i x) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
  }
  DUO_ALWAYS_INLINE F Widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
  DUO_ALWAYS_INLINE F LoadBf16(const void* p) { return Widen(Load256(p)); }
  DUO_ALWAYS_INLINE F LoadBf16Partial(const void* p, int n) { return Widen(_mm256_maskz_loadu_epi16(First(n), p)); }
  DUO_ALWAYS_INLINE F LoadF16(const void* p) { return _mm512_cvtph_ps(Load256(p)); }
  DUO_ALWAYS_INLINE F LoadF16Partial(const void* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(First(n), p));
  }
  DUO_ALWAYS_INLINE F LoadI8(const int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Load128(p))); }
  DUO_ALWAYS_INLINE F FromInts(Bits x) { return _mm512_cvtepi32_ps((__m512i)x); }
  DUO_ALWAYS_INLINE Bits ToInts(F x) { return (Bits)_mm512_cvtps_epi32(x); }
  DUO_ALWAYS_INLINE Bits MulPairs(Bits a, Bits b) { return (Bits)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
  DUO_ALWAYS_INLINE Bits AddPairs(Bits sum, Bits a, Bits b) { return sum + MulPairs(a, b); }
  DUO_ALWAYS_INLINE Bits WidenI8Pairs(const int8_t* p) { return (Bits)_mm512_cvtepi8_epi16(Load256(p)); }
  DUO_ALWAYS_INLINE void StorePairs(void* p, Bits x) {
    const __m512i later = _mm512_shuffle_epi32((__m512i)x, _MM_PERM_AADC);
    const __m512i pairs = _mm512_mask_blend_epi16(0xaaaaaaaau, (__m512i)x, _mm512_slli_epi32(later, 16));
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_castsi512_si256(_mm512_maskz_compress_epi64(0x55, pairs)));
  }
  DUO_ALWAYS_INLINE void StoreLow16(void* p, Bits x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)x));
  }
  // 2 kLanes bf16 as floats in the cheapest order: the even elements, then the odd ones.
  DUO_ALWAYS_INLINE void Split(__m512i x, F* even, F* odd) {
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(~0xffff)));
  }
  DUO_ALWAYS_INLINE void LoadBf16Twice(const char* p, F* a, F* b) { Split(_mm512_loadu_si512(p), a, b); }
  DUO_ALWAYS_INLINE void LoadBf16TwicePartial(const char* p, int n, F* a, F* b) {
    Split(_mm512_maskz_loadu_epi16(First32(n), p), a, b);
  }
  DUO_ALWAYS_INLINE void Interleave(F* a, F* b) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    const F first = _mm512_permutex2var_ps(*a, low, *b);
    *b = _mm512_permutex2var_ps(*a, high, *b);
    *a = first;
  }
  // Puts such a pair back into the order of memory.
  DUO_ALWAYS_INLINE void Restore(F* a, F* b) { Interleave(a, b); }
  DUO_ALWAYS_INLINE int TwiceIndex(int i) { return i / 2 + (i % 2) * kLanes; }

  DUO_ALWAYS_INLINE F Add(F a, F b) { return _mm512_add_ps(a, b); }
  DUO_ALWAYS_INLINE F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  DUO_ALWAYS_INLINE F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  DUO_ALWAYS_INLINE F Div(F a, F b) { return _mm512_div_ps(a, b); }
  DUO_ALWAYS_INLINE F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  DUO_ALWAYS_INLINE F MulSub(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }  // a b - c
  DUO_ALWAYS_INLINE F Max(F a, F b) { return _mm512_max_ps(a, b); }
  DUO_ALWAYS_INLINE F Min(F a, F b) { return _mm512_min_ps(a, b); }
  DUO_ALWAYS_INLINE bool AnyGreater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
  DUO_ALWAYS_INLINE float HorizontalMax(F a) { return _mm512_reduce_max_ps(a); }
  DUO_ALWAYS_INLINE float HorizontalSum(F a) { return _mm512_reduce_add_ps(a); }

  DUO_ALWAYS_INLINE F Round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  DUO_ALWAYS_INLINE F Scale(F x, F n) { return _mm512_scalef_ps(x, n); }

  // The bound avoids -inf - -inf. It changes no result, because 2^-200 is 0 as a float.
  DUO_ALWAYS_INLINE F Exp2(F x) {
    x = _mm512_max_ps(Set(-200.0f), x);  // NaN passes: it is the second operand
    const F n = Round(x);
    return Scale(Exp2Polynomial<VecAvx512>(Sub(x, n)), n);
  }
  // Accurate enough for a bf16 result.
  DUO_ALWAYS_INLINE F ShortExp2(F x) {
    x = _mm512_max_ps(Set(-200.0f), x);  // NaN passes: it is the second operand
    const F n = Round(x);
    return Scale(ShortExp2Polynomial<VecAvx512>(Sub(x, n)), n);
  }

  DUO_ALWAYS_INLINE F KeepTokens(F x, const int32_t* token, int32_t lo, int32_t hi) {
    const __m512i t = _mm512_loadu_si512(token);
    const __mmask16 from = _mm512_cmpge_epi32_mask(t, _mm512_set1_epi32(lo));
    const __mmask16 seen = _mm512_mask_cmplt_epi32_mask(from, t, _mm512_set1_epi32(hi));
    return _mm512_mask_blend_ps(seen, Set(-__builtin_inff()), x);
  }

  DUO_ALWAYS_INLINE void Transpose(F* x) {
    F y[16];
    DUO_UNROLL for (int i = 0; i < 16; i += 4) {  // 4x4 blocks inside each 128-bit lane
      const __m512d ab0 = _mm512_castps_pd(_mm512_unpacklo_ps(x[i], x[i + 1]));
      const __m512d ab1 = _mm512_castps_pd(_mm512_unpackhi_ps(x[i], x[i + 1]));
      const __m512d cd0 = _mm512_castps_pd(_mm512_unpacklo_ps(x[i + 2], x[i + 3]));
      const __m512d cd1 = _mm512_castps_pd(_mm512_unpackhi_ps(x[i + 2], x[i + 3]));
      y[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab0, cd0));
      y[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab0, cd0));
      y[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab1, cd1));
      y[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab1, cd1));
    }
    DUO_UNROLL for (int j = 0; j < 4; ++j) {  // 128-bit lane l of y[4 i + j] is block (i, l); transpose the blocks
      const F a = _mm512_shuffle_f32x4(y[j], y[4 + j], 0x44);
      const F b = _mm512_shuffle_f32x4(y[j], y[4 + j], 0xee);
      const F c = _mm512_shuffle_f32x4(y[8 + j], y[12 + j], 0x44);
      const F d = _mm512_shuffle_f32x4(y[8 + j], y[12 + j], 0xee);
      x[j] = _mm512_shuffle_f32x4(a, c, 0x88);
      x[4 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
      x[8 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
      x[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
  }

  // Halves of pairs of vectors are added until one vector is left. This takes 15
  // additions instead of 16 x 4.
  DUO_ALWAYS_INLINE F TransposedSum(F* x) {
    F y[4];
    DUO_UNROLL for (int i = 0; i < 4; ++i) {
      const F a = Add(_mm512_shuffle_f32x4(x[i], x[4 + i], 0x44), _mm512_shuffle_f32x4(x[i], x[4 + i], 0xee));
      const F b = Add(_mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0x44), _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0xee));
      y[i] = Add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    }
    const F a = Add(_mm512_unpacklo_ps(y[0], y[1]), _mm512_unpackhi_ps(y[0], y[1]));
    const F b = Add(_mm512_unpacklo_ps(y[2], y[3]), _mm512_unpackhi_ps(y[2], y[3]));
    const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    return Add(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
  }

  template <int kParts, int n>
  DUO_ALWAYS_INLINE void StoreParts(float* p, int stride, F x) {
    if constexpr (kParts == 1) {
      Store(p, x);
    } else if constexpr (kParts == 2) {
      _mm256_storeu_ps(p, _mm512_castps512_ps256(x));
      if constexpr (n > 1) _mm256_storeu_ps(p + stride, _mm512_extractf32x8_ps(x, 1));
    } else {
      static_assert(kParts == 4);
      _mm_storeu_ps(p, _mm512_castps512_ps128(x));
      if constexpr (n > 1) _mm_storeu_ps(p + stride, _mm512_extractf32x4_ps(x, 1));
      if constexpr (n > 2) _mm_storeu_ps(p + 2 * stride, _mm512_extractf32x4_ps(x, 2));
      if constexpr (n > 3) _mm_storeu_ps(p + 3 * stride, _mm512_extractf32x4_ps(x, 3));
    }
  }
  DUO_ALWAYS_INLINE void Prefetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }
};
static_assert(PairVec<VecAvx512>);

}  // namespace
}  // namespace duo
