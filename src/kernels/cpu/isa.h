// Which instruction set the CPU kernels use. Decided once, when a backend is made; forced with DUO_ISA.
#pragma once

#include "duo/result.h"

namespace duo {

/// Ordered: each level includes the ones before it.
enum class Isa {
  kPortable,    // plain C++
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, VL, DQ
  kAvx512Vnni,  // and AVX512_VNNI: integer dot products
  kAvx512Bf16,  // and AVX512_BF16: bf16 dot products
};

/// "portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16": the values of DUO_ISA.
const char* IsaName(Isa isa);

/// The best level this CPU and operating system offer.
Isa DetectIsa();

/// The level named by `forced` (the value of DUO_ISA; null or empty = detect). kInvalidArgument for an unknown name,
/// kUnsupported when this CPU lacks it; both name what is available.
Result<Isa> SelectIsa(const char* forced);

}  // namespace duo
