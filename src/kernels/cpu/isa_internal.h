// Parts of isa.h that tests drive directly.
#pragma once

#include "duo/result.h"
#include "kernels/cpu/isa.h"

namespace duo::internal {

/// SelectIsa on a machine whose best level is `detected`.
Result<Isa> SelectIsaFrom(Isa detected, const char* forced);

/// cpuid leaf 1, ECX bit 29: half <-> float conversion (clang 14's __builtin_cpu_supports has no name for it). Its
/// registers are AVX's, so the operating system's part is answered by the check for AVX2.
bool HasF16c();

}  // namespace duo::internal
