// FloatCodes multiplies the codes of quantised rows (kv_codes.h) as floats: the code policy (code_policy.h) of every
// vector type. Grid rounds queries and weights to integers, for the other policies.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/code_policy.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"
#include "kernels/cpu/vec/widened.h"

namespace duo {
namespace {

// Symmetric quantisation: step = max|x| / n_steps, and x ~ step * integer. Where max|x| is too small for the step's
// inverse to be a float, all integers are 0 and the step is arbitrary. Where an x is not finite, the step is NaN.
template <Vec V>
struct Grid {
  typename V::F inverse;  // 1 / step
  float step;
  bool some;  // false: all integers are 0

  static inline Grid Of(const float* x, int64_t n, float n_steps) {
    typename V::F most = V::Zero(), poison = V::Zero();  // poison: NaN when an x is not finite
    for (int64_t i = 0; i < n; i += V::kLanes) {
      const typename V::F v = Widened<V>::LoadUpTo(x + i, n - i);
      most = V::Max(V::Max(v, V::Sub(V::Zero(), v)), most);
      poison = V::Fma(v, V::Zero(), poison);
    }
    const float largest = V::HorizontalMax(most), nan = V::HorizontalSum(poison);
    const bool some = largest > 0x1p-100f && nan == 0.0f;
    return {V::Set(some ? n_steps / largest : 0.0f), some ? largest / n_steps : 1.0f + nan, some};
  }
};

template <Vec V, int bits>
struct FloatCodes {
  using F = typename V::F;
  using Code = F;
  using Acc = F;
  using Sum = F;
  struct Weight {
    F w;
  };
  static constexpr int kBits = bits;
  static constexpr int kBlockRows = 64;
  static constexpr int kKeyCodes = bits == 8 ? 4 : 8;
  static constexpr int kOutputs = bits == 8 ? 1 : 2;
  static constexpr int kTerms = 4;
  static constexpr int kPassWords = V::kLanes == 4 ? bits / 2 : V::kLanes == 16 ? 2 : 1;
  static constexpr int kQueryBytes = 4;
  static constexpr int kWeightBytes = 4;

  DUO_ALWAYS_INLINE F ZeroAcc() { return V::Zero(); }
  DUO_ALWAYS_INLINE F ZeroSum() { return V::Zero(); }
  DUO_ALWAYS_INLINE F ToFloat(F x) { return x; }
  DUO_ALWAYS_INLINE typename V::Bits LoadWords(const char* p) {
    typename V::Bits x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  DUO_ALWAYS_INLINE void SplitKeys(const char* p, F* code) {
    const typename V::Bits x = LoadWords(p);
    DUO_UNROLL for (int i = 0; i < 4; ++i) {
      if constexpr (bits == 8) {
        code[i] = V::FromInts(x >> (8 * i) & 255);
      } else {
        code[i] = V::FromInts(x >> (8 * i) & 15);
        code[4 + i] = V::FromInts(x >> (8 * i + 4) & 15);
      }
    }
  }
  // code[t]: row t of the four, dimensions of the first output. code[4 + t]: dimensions of the second output.
  DUO_ALWAYS_INLINE void SplitValues(const char* p, F* code) {
    const typename V::Bits x = LoadWords(p);
    DUO_UNROLL for (int t = 0; t < 4; ++t) {
      code[t] = V::FromInts(x >> (8 * t) & (bits == 8 ? 255 : 15));
      if constexpr (bits == 4) code[4 + t] = V::FromInts(x >> (8 * t + 4) & 15);
    }
  }
  DUO_ALWAYS_INLINE F Broadcast(const char* p) {
    float x;
    __builtin_memcpy(&x, p, sizeof x);
    return V::Set(x);
  }
  DUO_ALWAYS_INLINE F KeyMulAdd(F code, F q, F acc) { return V::Fma(code, q, acc); }
  DUO_ALWAYS_INLINE Weight LoadWeight(const char* weights, int quad, int t) {
    return {Broadcast(weights + 4 * (4 * quad + t))};
  }
  DUO_ALWAYS_INLINE F ValueMulAdd(F code, Weight weight, F sum) { return V::Fma(code, weight.w, sum); }
  DUO_ALWAYS_INLINE F Total(F sum, F) { return sum; }

  DUO_ALWAYS_INLINE float StoreWeights(const float* w, int n, float, char* out) {
    for (int r = 0; r < n; r += V::kLanes) V::Store(out + 4 * r, V::Load(w + r));
    return 1.0f;
  }
  DUO_ALWAYS_INLINE QueryFacts PrepareQuery(const float* q, int head_dim, int padded_dim, char* out) {
    float sum = 0.0f;
    for (int d = 0; d < padded_dim; ++d) {
      const float x = d < head_dim ? q[d] : 0.0f;
      sum += x;
      __builtin_memcpy(out + 4 * d, &x, sizeof x);
    }
    return {1.0f, sum};
  }
};

}  // namespace
}  // namespace duo
