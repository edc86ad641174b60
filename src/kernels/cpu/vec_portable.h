// Vectors of 4 floats in the compilers' generic notation: what the attention loops are written over (see vec_avx512.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/exp2_coefficients.h"
#include "kernels/cpu/inline.h"

namespace duo {
namespace {

struct VecPortable {
  typedef float F __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 4;       // accumulators of a prefill micro-kernel: kTileRows x up to 3
  static constexpr int kDecodeVectors = 2;  // chunks of 2 kLanes dimensions per pass of decode for 1 or 2 heads

  DUO_ALWAYS_INLINE F Zero() { return F{0, 0, 0, 0}; }
  DUO_ALWAYS_INLINE F Set(float x) { return F{x, x, x, x}; }
  DUO_ALWAYS_INLINE F Load(const void* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  DUO_ALWAYS_INLINE void Store(void* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
  // The first n < kLanes elements; zeros behind them.
  DUO_ALWAYS_INLINE F LoadPartial(const void* p, int n) {
    F x = Zero();
    for (int i = 0; i < n; ++i) {
      float e;
      __builtin_memcpy(&e, static_cast<const char*>(p) + 4 * i, sizeof e);
      x[i] = e;
    }
    return x;
  }
  DUO_ALWAYS_INLINE void StorePartial(float* p, F x, int n) {
    for (int i = 0; i < n; ++i) p[i] = x[i];
  }
  DUO_ALWAYS_INLINE float FromBf16(const char* p) {
    uint16_t h;
    __builtin_memcpy(&h, p, sizeof h);
    const uint32_t u = static_cast<uint32_t>(h) << 16;
    float f;
    __builtin_memcpy(&f, &u, sizeof f);
    return f;
  }
  // kLanes bf16 as floats.
  DUO_ALWAYS_INLINE F LoadBf16(const char* p) {
    return F{FromBf16(p), FromBf16(p + 2), FromBf16(p + 4), FromBf16(p + 6)};
  }
  DUO_ALWAYS_INLINE F LoadBf16Partial(const char* p, int n) {
    F x = Zero();
    for (int i = 0; i < n; ++i) x[i] = FromBf16(p + 2 * i);
    return x;
  }
  // 2 kLanes bf16 as floats in the order that is cheapest; Restore puts such a pair back into the order of memory.
  DUO_ALWAYS_INLINE void LoadBf16Twice(const char* p, F* a, F* b) {
    *a = LoadBf16(p);
    *b = LoadBf16(p + 8);
  }
  DUO_ALWAYS_INLINE void LoadBf16TwicePartial(const char* p, int n, F* a, F* b) {
    *a = LoadBf16Partial(p, n < 4 ? n : 4);
    *b = LoadBf16Partial(p + 8, n < 4 ? 0 : n - 4);
  }
  DUO_ALWAYS_INLINE void Restore(F*, F*) {}
  DUO_ALWAYS_INLINE int TwiceIndex(int i) { return i; }

  DUO_ALWAYS_INLINE F Add(F a, F b) { return a + b; }
  DUO_ALWAYS_INLINE F Sub(F a, F b) { return a - b; }
  DUO_ALWAYS_INLINE F Mul(F a, F b) { return a * b; }
  DUO_ALWAYS_INLINE F Fma(F a, F b, F c) { return a * b + c; }
  DUO_ALWAYS_INLINE F Max(F a, F b) {
    F r;
    for (int i = 0; i < 4; ++i) r[i] = a[i] > b[i] ? a[i] : b[i];
    return r;
  }
  DUO_ALWAYS_INLINE bool AnyGreater(F a, F b) { return a[0] > b[0] || a[1] > b[1] || a[2] > b[2] || a[3] > b[3]; }
  DUO_ALWAYS_INLINE float HorizontalMax(F a) {
    const float x = a[0] > a[1] ? a[0] : a[1], y = a[2] > a[3] ? a[2] : a[3];
    return x > y ? x : y;
  }
  DUO_ALWAYS_INLINE float HorizontalSum(F a) { return (a[0] + a[1]) + (a[2] + a[3]); }

  // 2^x for x <= 0; 0 below 2^-126 and for -inf, NaN for NaN. Adding 1.5 * 2^23 rounds x to the nearest integer n in
  // the low bits.
  DUO_ALWAYS_INLINE F Exp2(F x) {
    F r;
    for (int i = 0; i < 4; ++i) {
      const float y = x[i] < -126.0f ? -126.0f : x[i];
      const float shifted = y + 12582912.0f;
      const float f = y - (shifted - 12582912.0f);
      const float p =
          1.0f + f * (kExp2C1 + f * (kExp2C2 + f * (kExp2C3 + f * (kExp2C4 + f * (kExp2C5 + f * kExp2C6)))));
      uint32_t n, bits;
      __builtin_memcpy(&n, &shifted, sizeof n);
      __builtin_memcpy(&bits, &p, sizeof bits);
      bits += n << 23;
      float e;
      __builtin_memcpy(&e, &bits, sizeof e);
      r[i] = x[i] < -126.0f ? 0.0f : e;
    }
    return r;
  }

  // x where lo <= token < hi, else -inf.
  DUO_ALWAYS_INLINE F KeepTokens(F x, const int32_t* token, int32_t lo, int32_t hi) {
    F r;
    for (int i = 0; i < 4; ++i) r[i] = token[i] >= lo && token[i] < hi ? x[i] : -__builtin_inff();
    return r;
  }

  DUO_ALWAYS_INLINE void Transpose(F* x) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < i; ++j) {
        const float t = x[i][j];
        x[i][j] = x[j][i];
        x[j][i] = t;
      }
    }
  }
  // Lane i = sum of the lanes of x[i].
  DUO_ALWAYS_INLINE F TransposedSum(F* x) {
    Transpose(x);
    return (x[0] + x[1]) + (x[2] + x[3]);
  }
  // The first n of kParts equal parts of x; part h goes to p + h * stride.
  template <int kParts, int n>
  DUO_ALWAYS_INLINE void StoreParts(float* p, int stride, F x) {
    constexpr int kPart = kLanes / kParts;
    for (int i = 0; i < n * kPart; ++i) p[i / kPart * stride + i % kPart] = x[i];
  }
  DUO_ALWAYS_INLINE void Prefetch(const char* p) { __builtin_prefetch(p, 0, 3); }
};

}  // namespace
}  // namespace duo
