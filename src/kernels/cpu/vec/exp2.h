// 2^f on the interval around 0, for the Exp2 of every vector type (vec_concept.h). The polynomials are
// 1 + f (c1 + f (c2 + ...)), minimax in the relative error (Lawson iteration) with p(0) = 1. elementwise_loop.h has exp
// for every float.
#pragma once

#include "kernels/cpu/vec/inline.h"

namespace duo {

constexpr float kLog2E = 1.44269504088896340736f;

namespace {

/// 2^f for f in [-1/2, 1/2]. Degree 6, relative error 2.0e-9, so the rounding of the float result dominates.
template <class V>
DUO_ALWAYS_INLINE typename V::F Exp2Polynomial(typename V::F f) {
  typename V::F p = V::Fma(V::Set(1.535336196e-04f), f, V::Set(1.339887502e-03f));
  p = V::Fma(p, f, V::Set(9.618436918e-03f));
  p = V::Fma(p, f, V::Set(5.550332367e-02f));
  p = V::Fma(p, f, V::Set(2.402264774e-01f));
  p = V::Fma(p, f, V::Set(6.931471825e-01f));
  return V::Fma(p, f, V::Set(1.0f));
}

/// The same in degree 4, relative error 2.8e-6: 1/700 of the last place of a bf16 weight.
template <class V>
DUO_ALWAYS_INLINE typename V::F ShortExp2Polynomial(typename V::F f) {
  typename V::F p = V::Fma(V::Set(9.582852945e-03f), f, V::Set(5.590642616e-02f));
  p = V::Fma(p, f, V::Set(2.402409911e-01f));
  p = V::Fma(p, f, V::Set(6.931241751e-01f));
  return V::Fma(p, f, V::Set(1.0f));
}

}  // namespace
}  // namespace duo
