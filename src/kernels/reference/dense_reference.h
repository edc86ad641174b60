// The dense operations, written directly from their equations with double accumulation. They are the tests' oracle.
#pragma once

#include "base/bf16.h"
#include "kernels/dense.h"

namespace duo::reference {

/// Element i of an array of `type`, exactly.
double Load(const void* data, DType type, int64_t i);

/// kernels/dense.h has the contracts.
void GemvRows(const Gemv& p);
void RmsNormRows(const RmsNorm& p);
void RopeTokens(const Rope& p);
void SwiGluRange(const SwiGlu& p);
void GemmAll(const Gemm& p);

}  // namespace duo::reference
