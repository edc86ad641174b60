// Stands in for CUDA's header of this name.
#pragma once

#include "base/bf16.h"

using __half = duo::f16;
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }  // NOLINT: CUDA's type
inline float __half2float(__half value) { return duo::ToFloat(value); }
