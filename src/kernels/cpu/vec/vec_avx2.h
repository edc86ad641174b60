// Vectors of 8 floats with AVX2, FMA and F16C. vec_concept.h says what each member does.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vec/exp2.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"

namespace duo {
namespace {

struct VecAvx2 {
  using F = __m256;
  typedef uint32_t Bits __attribute__((vector_size(32)));   // the bits of F's lanes
  typedef uint64_t Words __attribute__((vector_size(32)));  // the same bits in larger lanes
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 4;  // 4 x 3 accumulators, 3 vectors of queries, 1 broadcast: 16 registers
  static constexpr int kDecodeVectors = 2;

  DUO_ALWAYS_INLINE F Zero() { return _mm256_setzero_ps(); }
  DUO_ALWAYS_INLINE F Set(float x) { return _mm256_set1_ps(x); }
  DUO_ALWAYS_INLINE F Load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
  DUO_ALWAYS_INLINE void Store(void* p, F x) { _mm256_storeu_ps(static_cast<float*>(p), x); }
  DUO_ALWAYS_INLINE __m256i First(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  DUO_ALWAYS_INLINE F LoadPartial(const void* p, int n) {
    return _mm256_maskload_ps(static_cast<const float*>(p), First(n));
  }
  DUO_ALWAYS_INLINE void StorePartial(float* p, F x, int n) { _mm256_maskstore_ps(p, First(n), x); }

  DUO_ALWAYS_INLINE __m128i Load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  DUO_ALWAYS_INLINE __m256i Load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  DUO_ALWAYS_INLINE F LoadBf16(const void* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(Load128(p)), 16));
  }
  DUO_ALWAYS_INLINE F LoadBf16Partial(const void* p, int n) {
    char whole[16] = {};
    __builtin_memcpy(whole, p, n * sizeof(uint16_t));
    return LoadBf16(whole);
  }
  DUO_ALWAYS_INLINE F LoadF16(const void* p) { return _mm256_cvtph_ps(Load128(p)); }
  DUO_ALWAYS_INLINE F LoadF16Partial(const void* p, int n) {
    char whole[16] = {};
    __builtin_memcpy(whole, p, n * sizeof(uint16_t));
    return LoadF16(whole);
  }
  DUO_ALWAYS_INLINE F LoadI8(const int8_t* p) {
    const void* bytes = p;
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(bytes))));
  }
  DUO_ALWAYS_INLINE F FromInts(Bits x) { return _mm256_cvtepi32_ps((__m256i)x); }
  DUO_ALWAYS_INLINE Bits ToInts(F x) { return (Bits)_mm256_cvtps_epi32(x); }
  DUO_ALWAYS_INLINE Bits MulPairs(Bits a, Bits b) { return (Bits)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
  DUO_ALWAYS_INLINE Bits AddPairs(Bits sum, Bits a, Bits b) { return sum + MulPairs(a, b); }
  DUO_ALWAYS_INLINE Bits WidenI8Pairs(const int8_t* p) { return (Bits)_mm256_cvtepi8_epi16(Load128(p)); }
  DUO_ALWAYS_INLINE void StorePairs(void* p, Bits x) {
    const __m256i later = _mm256_shuffle_epi32((__m256i)x, 0x0e);
    const __m256i pairs = _mm256_blend_epi16((__m256i)x, _mm256_slli_epi32(later, 16), 0xaa);
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08)));
  }
  DUO_ALWAYS_INLINE void StoreLow16(void* p, Bits x) {
    const __m256i lanes = (__m256i)x;
    _mm_storeu_si128(static_cast<__m128i*>(p),
                     _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1)));
  }
  // The even elements, then the odd ones.
  DUO_ALWAYS_INLINE void LoadBf16Twice(const char* p, F* even, F* odd) {
    const __m256i x = Load256(p);
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(~0xffff)));
  }
  DUO_ALWAYS_INLINE void LoadBf16TwicePartial(const char* p, int n, F* even, F* odd) {
    char whole[32] = {};
    __builtin_memcpy(whole, p, n * sizeof(uint16_t));
    LoadBf16Twice(whole, even, odd);
  }
  DUO_ALWAYS_INLINE void Interleave(F* a, F* b) {
    const F low = _mm256_unpacklo_ps(*a, *b), high = _mm256_unpackhi_ps(*a, *b);
    *a = _mm256_permute2f128_ps(low, high, 0x20);
    *b = _mm256_permute2f128_ps(low, high, 0x31);
  }
  DUO_ALWAYS_INLINE void Restore(F* a, F* b) { Interleave(a, b); }
  DUO_ALWAYS_INLINE int TwiceIndex(int i) { return i / 2 + (i % 2) * kLanes; }

  DUO_ALWAYS_INLINE F Add(F a, F b) { return _mm256_add_ps(a, b); }
  DUO_ALWAYS_INLINE F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  DUO_ALWAYS_INLINE F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  DUO_ALWAYS_INLINE F Div(F a, F b) { return _mm256_div_ps(a, b); }
  DUO_ALWAYS_INLINE F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  DUO_ALWAYS_INLINE F MulSub(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }  // a b - c
  DUO_ALWAYS_INLINE F Max(F a, F b) { return _mm256_max_ps(a, b); }
  DUO_ALWAYS_INLINE F Min(F a, F b) { return _mm256_min_ps(a, b); }
  DUO_ALWAYS_INLINE bool AnyGreater(F a, F b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
  DUO_ALWAYS_INLINE float HorizontalMax(F a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  DUO_ALWAYS_INLINE float HorizontalSum(F a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }

  DUO_ALWAYS_INLINE F Round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // Multiplies by two factors, because 2^n alone may not be a normal float.
  DUO_ALWAYS_INLINE F Scale(F x, F n) {
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i first = _mm256_srai_epi32(whole, 1);
    return Mul(Mul(x, PowerOfTwo(first)), PowerOfTwo(_mm256_sub_epi32(whole, first)));
  }
  DUO_ALWAYS_INLINE F PowerOfTwo(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }

  // 0 for x < -126.
  DUO_ALWAYS_INLINE F Exp2(F x) {
    const F y = _mm256_max_ps(Set(-126.0f), x);  // NaN passes: it is the second operand
    const F n = Round(y);
    const F p = Exp2Polynomial<VecAvx2>(Sub(y, n));
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    const F e = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
    return _mm256_and_ps(e, _mm256_cmp_ps(x, Set(-126.0f), _CMP_NLT_UQ));
  }

  DUO_ALWAYS_INLINE F KeepTokens(F x, const int32_t* token, int32_t lo, int32_t hi) {
    const __m256i t = Load256(token);
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(lo), t);
    const __m256i seen = _mm256_andnot_si256(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), t));
    return _mm256_blendv_ps(Set(-__builtin_inff()), x, _mm256_castsi256_ps(seen));
  }

  DUO_ALWAYS_INLINE void Transpose(F* x) {
    F y[8];
    DUO_UNROLL for (int i = 0; i < 8; i += 4) {  // 4x4 blocks inside each 128-bit lane
      const F ab0 = _mm256_unpacklo_ps(x[i], x[i + 1]), ab1 = _mm256_unpackhi_ps(x[i], x[i + 1]);
      const F cd0 = _mm256_unpacklo_ps(x[i + 2], x[i + 3]), cd1 = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
      y[i] = _mm256_shuffle_ps(ab0, cd0, 0x44);
      y[i + 1] = _mm256_shuffle_ps(ab0, cd0, 0xee);
      y[i + 2] = _mm256_shuffle_ps(ab1, cd1, 0x44);
      y[i + 3] = _mm256_shuffle_ps(ab1, cd1, 0xee);
    }
    DUO_UNROLL for (int j = 0; j < 4; ++j) {
      x[j] = _mm256_permute2f128_ps(y[j], y[4 + j], 0x20);
      x[4 + j] = _mm256_permute2f128_ps(y[j], y[4 + j], 0x31);
    }
  }

  DUO_ALWAYS_INLINE F TransposedSum(F* x) {
    const F a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    const F b = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
    return Add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }

  template <int kParts, int n>
  DUO_ALWAYS_INLINE void StoreParts(float* p, int stride, F x) {
    const __m128 low = _mm256_castps256_ps128(x), high = _mm256_extractf128_ps(x, 1);
    if constexpr (kParts == 1) {
      Store(p, x);
    } else if constexpr (kParts == 2) {
      _mm_storeu_ps(p, low);
      if constexpr (n > 1) _mm_storeu_ps(p + stride, high);
    } else {
      static_assert(kParts == 4);
      const double parts[4] = {_mm_cvtsd_f64(_mm_castps_pd(low)), _mm_cvtsd_f64(_mm_castps_pd(_mm_movehl_ps(low, low))),
                               _mm_cvtsd_f64(_mm_castps_pd(high)),
                               _mm_cvtsd_f64(_mm_castps_pd(_mm_movehl_ps(high, high)))};
      DUO_UNROLL for (int h = 0; h < n; ++h) __builtin_memcpy(p + h * stride, &parts[h], sizeof parts[h]);
    }
  }
  DUO_ALWAYS_INLINE void Prefetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }
};
static_assert(PairVec<VecAvx2>);

}  // namespace
}  // namespace duo
