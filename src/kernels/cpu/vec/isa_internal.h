// Parts of isa.h that tests call directly.
#pragma once

#include "duo/result.h"
#include "kernels/cpu/vec/isa.h"

namespace duo::internal {

/// SelectIsa on a machine whose best level is `detected`.
Result<Isa> SelectIsaFrom(Isa detected, const char* forced);

/// cpuid leaf 1, ECX bit 29: half <-> float conversion. clang 14's __builtin_cpu_supports has no name for it. F16C uses
/// the registers of AVX, so the check for AVX2 covers the operating system's support.
bool HasF16c();

}  // namespace duo::internal
