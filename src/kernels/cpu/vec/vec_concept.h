// The operations of a vector type. The loops (*_loop.h) and their policies are written for any such type V. Each
// instruction set has one, in vec_<isa>.h. All functions are static and always inlined. Pointers need no alignment.
#pragma once

#include <cstdint>

namespace duo {

/// A vector of kLanes floats.
template <class V>
concept Vec = requires(typename V::F f, typename V::F a, typename V::F b, typename V::F c, typename V::Bits bits,
                       typename V::Words words, float x, float* floats, const void* from, const char* row,
                       const int8_t* bytes, const int32_t* tokens, int32_t lo, int32_t hi, void* to, int n, int stride,
                       bool any) {
  // F: kLanes floats. Bits: the bits of F's lanes, unsigned. Words: the same bits in larger lanes. Bits and Words have
  // the compilers' operators, such as & and >>.
  requires V::kLanes == 4 || V::kLanes == 8 || V::kLanes == 16;
  requires sizeof(f) == 4 * V::kLanes && sizeof(bits) == sizeof(f) && sizeof(words) == sizeof(f);
  // The registers hold these sums. In prefill: kTileRows keys by up to 3 vectors of queries. In decode: kDecodeVectors
  // chunks of 2 kLanes dimensions for 1 or 2 heads, half as many for more heads.
  n = V::kTileRows;
  n = V::kDecodeVectors;

  // Memory. *Partial: the first n < kLanes elements, followed by zeros. Memory after them is not touched.
  f = V::Zero();
  f = V::Set(x);  // x in every lane
  f = V::Load(from);
  f = V::LoadPartial(from, n);
  V::Store(to, a);
  V::StorePartial(floats, a, n);
  V::Prefetch(row);  // one cache line, into the second-level cache
  // kLanes bf16, IEEE halves or signed bytes, as floats.
  f = V::LoadBf16(from);
  f = V::LoadBf16Partial(from, n);
  f = V::LoadF16(from);
  f = V::LoadF16Partial(from, n);
  f = V::LoadI8(bytes);
  // 2 kLanes bf16 as floats, in the cheapest order. TwiceIndex(n): the place of element n in such a pair. Restore: puts
  // a pair back into the order of memory.
  V::LoadBf16Twice(row, &a, &b);
  V::LoadBf16TwicePartial(row, n, &a, &b);  // n < 2 kLanes
  n = V::TwiceIndex(n);
  V::Restore(&a, &b);
  V::StoreLow16(to, bits);  // the low halves of the lanes; the high halves must be zero
  // StoreParts<kParts, n>: the first n of kParts equal parts of a. Part h goes to floats + h * stride.
  V::template StoreParts<1, 1>(floats, stride, a);
  V::template StoreParts<2, 2>(floats, stride, a);
  V::template StoreParts<4, 4>(floats, stride, a);

  // Arithmetic on every lane.
  f = V::Add(a, b);
  f = V::Sub(a, b);
  f = V::Mul(a, b);
  f = V::Div(a, b);
  f = V::Fma(a, b, c);     // a b + c, rounded once or twice
  f = V::MulSub(a, b, c);  // a b - c, rounded once or twice
  f = V::Max(a, b);        // Max and Min: b where a or b is NaN
  f = V::Min(a, b);
  f = V::Round(a);                       // the nearest integer, for |a| < 2^22
  f = V::Scale(a, b);                    // a 2^b, for integers -150 <= b <= 128
  f = V::Exp2(a);                        // 2^a for a <= 0: 0 for -inf, NaN for NaN, and 0 is allowed below 2^-126
  f = V::FromInts(bits);                 // signed 32-bit integers as floats
  f = V::KeepTokens(a, tokens, lo, hi);  // a where lo <= the lane's token < hi, else -inf

  // Across lanes.
  any = V::AnyGreater(a, b);  // whether a > b in some lane
  x = V::HorizontalMax(a);
  x = V::HorizontalSum(a);
  V::Interleave(&a, &b);     // replaces the pair by (a0, b0, a1, b1, ...)
  V::Transpose(&a);          // a: [kLanes] vectors, in place
  f = V::TransposedSum(&a);  // a: [kLanes] vectors; lane i = the sum of the lanes of vector i
};

/// A vector type that also multiplies pairs of signed 16-bit numbers. A lane of Bits holds one pair, the first number
/// in its low half.
template <class V>
concept PairVec = Vec<V> && requires(typename V::F f, typename V::Bits bits, typename V::Bits a, typename V::Bits b,
                                     const int8_t* bytes, void* to) {
  bits = V::ToInts(f);             // the nearest signed 32-bit integers
  bits = V::MulPairs(a, b);        // in every lane, the sum of its two products
  bits = V::AddPairs(bits, a, b);  // bits + MulPairs(a, b)
  bits = V::WidenI8Pairs(bytes);   // 2 kLanes signed bytes as pairs
  V::StorePairs(to, a);            // packs the low halves of every four lanes into two pairs: lanes 0 and 2, 1 and 3
};

}  // namespace duo
