// Stands in for CUDA's header of this name.
#pragma once

#include "base/bf16.h"

using __nv_bfloat16 = duo::bf16;
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return duo::ToBf16(value); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {duo::ToBf16(x), duo::ToBf16(y)}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }  // NOLINT: CUDA's type
