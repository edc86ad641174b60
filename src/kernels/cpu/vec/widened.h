// Loads elements of every weight type as vectors of floats, for a vector type V (vec_<isa>.h).
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"

namespace duo {
namespace {

template <Vec V>
struct Widened {
  using F = typename V::F;

  DUO_ALWAYS_INLINE F Load(const float* p) { return V::Load(p); }
  DUO_ALWAYS_INLINE F Load(const bf16* p) { return V::LoadBf16(p); }
  DUO_ALWAYS_INLINE F Load(const f16* p) { return V::LoadF16(p); }
  DUO_ALWAYS_INLINE F Load(const int8_t* p) { return V::LoadI8(p); }

  DUO_ALWAYS_INLINE F LoadPartial(const float* p, int n) { return V::LoadPartial(p, n); }
  DUO_ALWAYS_INLINE F LoadPartial(const bf16* p, int n) { return V::LoadBf16Partial(p, n); }
  DUO_ALWAYS_INLINE F LoadPartial(const f16* p, int n) { return V::LoadF16Partial(p, n); }
  DUO_ALWAYS_INLINE F LoadPartial(const int8_t* p, int n) {
    int8_t whole[V::kLanes] = {};
    __builtin_memcpy(whole, p, n);
    return V::LoadI8(whole);
  }

  // One vector from the n elements that are left, followed by zeros (all zeros if n <= 0). Memory after the n elements
  // is not touched.
  template <typename T>
  DUO_ALWAYS_INLINE F LoadUpTo(const T* p, int64_t n) {
    return n >= V::kLanes ? Load(p) : n <= 0 ? V::Zero() : LoadPartial(p, static_cast<int>(n));
  }
};

}  // namespace
}  // namespace duo
