// Elements as floats for the portable kernels, without branches, so that compilers vectorise the loops around them.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/bf16.h"

namespace duo::portable {

inline float AsFloat(float x) { return x; }
inline float AsFloat(bf16 x) { return ToFloat(x); }

/// The half's exponent and mantissa moved to a float's places make a number 2^112 times too small, also where the half
/// is subnormal; the product is exact. Infinity and NaN (exponent 31) get the float's largest exponent.
inline float AsFloat(f16 x) {
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  float f;
  std::memcpy(&f, &magnitude, sizeof f);
  f *= 0x1p112f;
  uint32_t u;
  std::memcpy(&u, &f, sizeof u);
  u |= magnitude >= (0x1fu << 23) ? 0x7f800000u : 0u;
  u |= static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  std::memcpy(&f, &u, sizeof f);
  return f;
}

}  // namespace duo::portable
