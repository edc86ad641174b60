// Products of quantised rows (code_policy.h) as integer dot products of 4 codes and 4 signed bytes per 32-bit lane.
// Queries are rounded to 8 bits. Weights are rounded to 14 bits and split into two numbers of 7 bits. A block's sums
// stay exact integers.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/code_products.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_avx512.h"

namespace duo {
namespace {

// Adds 4 products of unsigned and signed bytes to every lane. It is in assembly because gcc 12 moves the sums of a loop
// to other registers and back around its own intrinsic. These moves take as long as the products.
DUO_ALWAYS_INLINE __m512i DotBytes(__m512i codes, __m512i bytes, __m512i acc) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(bytes));
  return acc;
}

// A query in steps of its largest magnitude / 127, as signed bytes.
struct RoundedQuery {
  using V = VecAvx512;
  __m512 inverse;  // 1 / step
  float byte_sum;
  QueryFacts facts;

  static inline RoundedQuery Of(const float* q, int head_dim) {
    const Grid<V> grid = Grid<V>::Of(q, head_dim, 127.0f);
    RoundedQuery query;
    query.inverse = grid.inverse;
    query.facts.step = grid.step;
    __m512i sum = _mm512_setzero_si512();
    for (int d = 0; d < head_dim; d += 64) {
      sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), query.Bytes(q + d, head_dim - d));
    }
    query.byte_sum = _mm512_reduce_add_epi32(sum);
    query.facts.sum = query.facts.step * query.byte_sum;
    return query;
  }

  // Bytes: the next 64 of the n >= 1 elements that are left, followed by zeros. Bytes16: the same for 16 elements, any
  // n.
  DUO_ALWAYS_INLINE __m128i Bytes16(const float* q, int n, __m512 inverse) {
    const __mmask16 there = n >= 16 ? 0xffff : n <= 0 ? 0 : V::First(n);
    const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(there, q), inverse);
    return _mm512_cvtepi32_epi8(_mm512_maskz_cvtps_epi32(there, x));
  }
  inline __attribute__((always_inline)) __m512i Bytes(const float* q, int n) const {
    const __m256i low = _mm256_set_m128i(Bytes16(q + 16, n - 16, inverse), Bytes16(q, n, inverse));
    const __m256i high = _mm256_set_m128i(Bytes16(q + 48, n - 48, inverse), Bytes16(q + 32, n - 32, inverse));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
};

template <int bits>
struct DotCodes {
  using V = VecAvx512;
  using F = __m512;
  using Code = __m512i;
  using Acc = __m512i;
  struct Sum {
    __m512i high, low;
  };
  struct Weight {
    __m512i high, low;
  };
  static constexpr int kBits = bits;
  // Sums over 64 rows of codes below 256, or 128 rows of codes below 16, with weights below 2^14 stay below 2^28. A
  // block and the next one fit the first-level cache.
  static constexpr int kBlockRows = bits == 8 ? 64 : 128;
  static constexpr int kKeyCodes = bits == 8 ? 1 : 2;
  static constexpr int kOutputs = bits == 8 ? 1 : 2;
  static constexpr int kTerms = 1;
  static constexpr int kPassWords = bits == 8 ? 2 : 1;
  static constexpr int kQueryBytes = 1;
  static constexpr int kWeightBytes = 2;
  static constexpr float kMaxWeight = 16383.0f;

  DUO_ALWAYS_INLINE Acc ZeroAcc() { return _mm512_setzero_si512(); }
  DUO_ALWAYS_INLINE Sum ZeroSum() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  DUO_ALWAYS_INLINE F ToFloat(Acc x) { return _mm512_cvtepi32_ps(x); }
  DUO_ALWAYS_INLINE void SplitKeys(const char* p, Code* code) {
    const __m512i x = _mm512_loadu_si512(p);
    if constexpr (bits == 8) {
      code[0] = x;
    } else {
      const __m512i half = _mm512_set1_epi8(15);
      code[0] = _mm512_and_si512(x, half);
      code[1] = _mm512_and_si512(_mm512_srli_epi16(x, 4), half);
    }
  }
  DUO_ALWAYS_INLINE void SplitValues(const char* p, Code* code) { SplitKeys(p, code); }
  DUO_ALWAYS_INLINE __m512i Broadcast(const char* p) {
    int32_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
  }
  DUO_ALWAYS_INLINE Acc KeyMulAdd(Code code, __m512i q, Acc acc) { return DotBytes(code, q, acc); }
  // The high bytes of all rows of a block come first, then the low bytes.
  DUO_ALWAYS_INLINE Weight LoadWeight(const char* weights, int quad, int) {
    return {Broadcast(weights + 4 * quad), Broadcast(weights + kBlockRows + 4 * quad)};
  }
  DUO_ALWAYS_INLINE Sum ValueMulAdd(Code code, Weight w, Sum sum) {
    return {DotBytes(code, w.high, sum.high), DotBytes(code, w.low, sum.low)};
  }
  DUO_ALWAYS_INLINE F Total(Sum sum, F step) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sum.high, 7), sum.low)), step);
  }

  // Writes weights as multiples of a step, of which the largest weight is kMaxWeight steps. The step's inverse may not
  // be a float where the largest weight is 2^-100 or less. Then all weights become 0, and each value counts as its low.
  DUO_ALWAYS_INLINE float StoreWeights(const float* w, int n, float largest, char* out) {
    const bool some = largest > 0x1p-100f;
    const F inverse = V::Set(some ? kMaxWeight / largest : 0.0f);
    for (int r = 0; r < n; r += 16) {
      const __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(V::Load(w + r), inverse));
      V::StoreBytes(out + r, _mm512_srli_epi32(x, 7));
      V::StoreBytes(out + kBlockRows + r, _mm512_and_si512(x, _mm512_set1_epi32(127)));
    }
    return some ? largest / kMaxWeight : 0.0f;
  }

  DUO_ALWAYS_INLINE QueryFacts PrepareQuery(const float* q, int head_dim, int padded_dim, char* out) {
    const RoundedQuery query = RoundedQuery::Of(q, head_dim);
    for (int d = 0; d < padded_dim; d += 64) {
      const __mmask64 there = padded_dim - d >= 64 ? ~__mmask64{0} : (uint64_t{1} << (padded_dim - d)) - 1;
      _mm512_mask_storeu_epi8(out + d, there, query.Bytes(q + d, head_dim - d));
    }
    return query.facts;
  }
};

}  // namespace
}  // namespace duo
