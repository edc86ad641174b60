// Products of quantised rows (code_policy.h) as products of 16-bit numbers, two of them added in every 32-bit lane.
// For CPUs with such products (AVX2, AVX-512) but without dot products of bytes. Queries and weights are rounded to 14
// bits and a sign. A block's sums stay exact integers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/code_products.h"
#include "kernels/cpu/vec/inline.h"

namespace duo {
namespace {

template <PairVec V, int bits>
struct PairCodes {
  using F = typename V::F;
  using Code = typename V::Bits;  // two codes in each lane
  using Acc = Code;
  using Sum = Code;
  struct Weight {
    Code w;
  };
  static constexpr int kBits = bits;
  static constexpr int kBlockRows = bits == 8 ? 64 : 128;  // a block and the next one fit the first-level cache
  static constexpr int kKeyCodes = bits == 8 ? 2 : 4;
  static constexpr int kOutputs = bits == 8 ? 1 : 2;
  static constexpr int kTerms = 2;
  static constexpr int kPassWords = V::kLanes == 16 || bits == 8 ? 2 : 1;
  static constexpr int kQueryBytes = 2;
  static constexpr int kWeightBytes = 2;
  // The sum of 512 products with codes below 256 stays below 2^31, and so does the sum over a block's rows.
  static constexpr float kMax = 16383.0f;

  DUO_ALWAYS_INLINE Code ZeroAcc() { return Code{}; }
  DUO_ALWAYS_INLINE Code ZeroSum() { return Code{}; }
  DUO_ALWAYS_INLINE F ToFloat(Code x) { return V::FromInts(x); }
  // Bytes 0 and 2 of every word, then bytes 1 and 3; for int4 first their low halves, then their high halves.
  DUO_ALWAYS_INLINE void SplitKeys(const char* p, Code* code) {
    Code x;
    __builtin_memcpy(&x, p, sizeof x);
    if constexpr (bits == 8) {
      code[0] = x & 0x00ff00ffu;
      code[1] = x >> 8 & 0x00ff00ffu;
    } else {
      DUO_UNROLL for (int i = 0; i < 2; ++i) {
        code[i] = x >> (8 * i) & 0x000f000fu;
        code[2 + i] = x >> (8 * i + 4) & 0x000f000fu;
      }
    }
  }
  DUO_ALWAYS_INLINE void SplitValues(const char* p, Code* code) { SplitKeys(p, code); }
  DUO_ALWAYS_INLINE Code Broadcast(const char* p) {
    uint32_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return Code{} + x;
  }
  DUO_ALWAYS_INLINE Acc KeyMulAdd(Code code, Code q, Acc acc) { return acc + V::MulPairs(code, q); }
  DUO_ALWAYS_INLINE Weight LoadWeight(const char* weights, int quad, int t) {
    return {Broadcast(weights + 8 * quad + 4 * t)};
  }
  DUO_ALWAYS_INLINE Sum ValueMulAdd(Code code, Weight weight, Sum sum) { return sum + V::MulPairs(code, weight.w); }
  DUO_ALWAYS_INLINE F Total(Sum sum, F step) { return V::Mul(V::FromInts(sum), step); }

  // Like DotCodes::StoreWeights, but in pairs.
  DUO_ALWAYS_INLINE float StoreWeights(const float* w, int n, float largest, char* out) {
    const bool some = largest > 0x1p-100f;
    const F inverse = V::Set(some ? kMax / largest : 0.0f);
    for (int r = 0; r < n; r += V::kLanes) V::StorePairs(out + 2 * r, V::ToInts(V::Mul(V::Load(w + r), inverse)));
    return some ? largest / kMax : 0.0f;
  }

  struct Facts : QueryFacts {
    int32_t int_sum;  // sum of the rounded numbers
  };
  // Writes q in pairs, in steps of its largest magnitude / kMax. May write up to a vector past padded_dim.
  DUO_ALWAYS_INLINE Facts PrepareQuery(const float* q, int head_dim, int padded_dim, char* out) {
    const Grid<V> grid = Grid<V>::Of(q, head_dim, kMax);
    Code sum = {};
    for (int d = 0; d < padded_dim; d += V::kLanes) {
      const F x = grid.some ? Widened<V>::LoadUpTo(q + d, head_dim - d) : V::Zero();
      const Code ints = V::ToInts(V::Mul(x, grid.inverse));
      sum += ints;
      V::StorePairs(out + 2 * d, ints);
    }
    const float int_sum = V::HorizontalSum(V::FromInts(sum));  // below 2^24
    return {{grid.step, grid.step * int_sum}, static_cast<int32_t>(int_sum)};
  }
};

}  // namespace
}  // namespace duo
