// The instruction set that the CPU kernels use. It is chosen once, when a backend is created. DUO_ISA forces it.
#pragma once

#include "duo/result.h"

namespace duo {

/// Ordered: each level includes the ones before it.
enum class Isa {
  kPortable,    // plain C++
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, VL, DQ
  kAvx512Vnni,  // also AVX512_VNNI: integer dot products
  kAvx512Bf16,  // also AVX512_BF16: bf16 dot products
};

/// "portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16": the values of DUO_ISA.
const char* IsaName(Isa isa);

/// The best level that this CPU and its operating system support.
Isa DetectIsa();

/// The level named by `forced` (the value of DUO_ISA); null or empty detects it. kInvalidArgument for an unknown name,
/// kUnsupported when this CPU lacks it. Both messages name the available levels.
Result<Isa> SelectIsa(const char* forced);

}  // namespace duo
