// Vectors of 4 floats in the compilers' generic notation. vec_concept.h says what each member does.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vec/exp2.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"

namespace duo {
namespace {

struct VecPortable {
  typedef float F __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));   // the bits of F's lanes
  typedef uint64_t Words __attribute__((vector_size(16)));  // the same bits in larger lanes
  typedef int32_t Ints __attribute__((vector_size(16)));
  typedef uint16_t Halves __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 4;
  static constexpr int kDecodeVectors = 2;

  DUO_ALWAYS_INLINE F Zero() { return F{0, 0, 0, 0}; }
  DUO_ALWAYS_INLINE F Set(float x) { return F{x, x, x, x}; }
  DUO_ALWAYS_INLINE F Load(const void* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  DUO_ALWAYS_INLINE void Store(void* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
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
  // kLanes 16-bit numbers, one per lane. A shuffle puts a zero after each number. It is one instruction, where gcc 12
  // makes five of __builtin_convertvector. The low half of a lane must come first in memory, as it does in the files.
  DUO_ALWAYS_INLINE Bits Load16(const void* p) {
    Words x = {0, 0};
    uint64_t four;
    __builtin_memcpy(&four, p, sizeof four);
    x[0] = four;
    return (Bits)__builtin_shufflevector((Halves)x, (Halves)Zero(), 0, 8, 1, 9, 2, 10, 3, 11);
  }
  DUO_ALWAYS_INLINE Bits Load16Partial(const void* p, int n) {
    char whole[8] = {};
    __builtin_memcpy(whole, p, n * sizeof(uint16_t));
    return Load16(whole);
  }
  DUO_ALWAYS_INLINE F LoadBf16(const void* p) { return (F)(Load16(p) << 16); }
  DUO_ALWAYS_INLINE F LoadBf16Partial(const void* p, int n) { return (F)(Load16Partial(p, n) << 16); }
  DUO_ALWAYS_INLINE F LoadF16(const void* p) { return FromF16(Load16(p)); }
  DUO_ALWAYS_INLINE F LoadF16Partial(const void* p, int n) { return FromF16(Load16Partial(p, n)); }
  // Exponent and mantissa, moved to their places in a float, give a number that is 2^112 times too small. This also
  // holds for subnormal halves. The product with 2^112 is exact. Infinity and NaN (exponent 31) get the float's largest
  // exponent.
  DUO_ALWAYS_INLINE F FromF16(Bits x) {
    const Bits magnitude = (x & 0x7fff) << 13;
    const Bits special = (Bits)((Ints)magnitude >= 0x1f << 23) & 0x7f800000;
    return (F)((Bits)((F)magnitude * 0x1p112f) | special | (x & 0x8000) << 16);
  }
  DUO_ALWAYS_INLINE F LoadI8(const int8_t* p) {
    // Moves each byte to the top of its lane, then shifts it down with its sign.
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const Bits word = {four, 0, 0, 0}, zero = {};
    const Bytes b = __builtin_shufflevector((Bytes)zero, (Bytes)word, 0, 16, 1, 17, 2, 18, 3, 19,  //
                                            4, 20, 5, 21, 6, 22, 7, 23);
    const Halves h = __builtin_shufflevector((Halves)zero, (Halves)b, 0, 8, 1, 9, 2, 10, 3, 11);
    return __builtin_convertvector((Ints)h >> 24, F);
  }
  DUO_ALWAYS_INLINE F FromInts(Bits x) { return __builtin_convertvector((Ints)x, F); }
  DUO_ALWAYS_INLINE void Interleave(F* a, F* b) {
    const F low = {(*a)[0], (*b)[0], (*a)[1], (*b)[1]}, high = {(*a)[2], (*b)[2], (*a)[3], (*b)[3]};
    *a = low;
    *b = high;
  }
  DUO_ALWAYS_INLINE void StoreLow16(void* p, Bits x) {
    uint16_t low[kLanes];
    for (int i = 0; i < kLanes; ++i) low[i] = static_cast<uint16_t>(x[i]);
    __builtin_memcpy(p, low, sizeof low);
  }
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
  DUO_ALWAYS_INLINE F Div(F a, F b) { return a / b; }
  DUO_ALWAYS_INLINE F Fma(F a, F b, F c) { return a * b + c; }
  DUO_ALWAYS_INLINE F MulSub(F a, F b, F c) { return a * b - c; }
  DUO_ALWAYS_INLINE F Max(F a, F b) {
    F r;
    for (int i = 0; i < 4; ++i) r[i] = a[i] > b[i] ? a[i] : b[i];
    return r;
  }
  DUO_ALWAYS_INLINE F Min(F a, F b) {
    F r;
    for (int i = 0; i < 4; ++i) r[i] = a[i] < b[i] ? a[i] : b[i];
    return r;
  }
  DUO_ALWAYS_INLINE bool AnyGreater(F a, F b) { return a[0] > b[0] || a[1] > b[1] || a[2] > b[2] || a[3] > b[3]; }
  DUO_ALWAYS_INLINE float HorizontalMax(F a) {
    const float x = a[0] > a[1] ? a[0] : a[1], y = a[2] > a[3] ? a[2] : a[3];
    return x > y ? x : y;
  }
  DUO_ALWAYS_INLINE float HorizontalSum(F a) { return (a[0] + a[1]) + (a[2] + a[3]); }

  // For |x| < 2^22, 1.5 * 2^23 + x has no fractional bits.
  DUO_ALWAYS_INLINE F Round(F x) { return (x + 12582912.0f) - 12582912.0f; }
  // Multiplies by two factors, because 2^n alone may not be a normal float.
  DUO_ALWAYS_INLINE F Scale(F x, F n) {
    const F first = Round(n * 0.5f);
    return x * PowerOfTwo(first) * PowerOfTwo(n - first);
  }
  // The low bits of 1.5 * 2^23 + 127 + n are the biased exponent.
  DUO_ALWAYS_INLINE F PowerOfTwo(F n) { return (F)((Bits)(n + 12583039.0f) << 23); }

  // 0 for x < -126. Adding 1.5 * 2^23 rounds to the nearest integer n, which is then in the low bits.
  DUO_ALWAYS_INLINE F Exp2(F x) {
    const F y = Max(Set(-126.0f), x);  // NaN passes: it is the second operand
    const F shifted = y + 12582912.0f;
    const Bits p = (Bits)Exp2Polynomial<VecPortable>(y - (shifted - 12582912.0f));
    return (F)((p + ((Bits)shifted << 23)) & ~(Bits)(x < -126.0f));
  }

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
  DUO_ALWAYS_INLINE F TransposedSum(F* x) {
    Transpose(x);
    return (x[0] + x[1]) + (x[2] + x[3]);
  }
  template <int kParts, int n>
  DUO_ALWAYS_INLINE void StoreParts(float* p, int stride, F x) {
    constexpr int kPart = kLanes / kParts;
    for (int i = 0; i < n * kPart; ++i) p[i / kPart * stride + i % kPart] = x[i];
  }
  DUO_ALWAYS_INLINE void Prefetch(const char* p) { __builtin_prefetch(p, 0, 2); }
};
static_assert(Vec<VecPortable>);

}  // namespace
}  // namespace duo
