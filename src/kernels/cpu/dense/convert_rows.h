// Rows of matrices of any type, converted to the type that a library multiplies.
#pragma once

#include <cstdint>

#include "duo/dtype.h"
#include "kernels/cpu/dense/dense_kernels.h"

namespace duo {

/// A matrix whose rows are converted one at a time. Does not own its bytes.
struct SourceRows {
  const void* data = nullptr;  // int4 blocks (weight_codes.h) for kU8
  DType type = DType::kF32;
  int64_t stride = 0;            // elements between rows
  const float* scale = nullptr;  // per row, kI8 only; null counts as ones
};

/// Where row `row` begins; for int4, the block that contains it.
const void* RowPtr(const SourceRows& from, int64_t row);

/// Writes the first n elements of row `row` as `type`: that of `from`, kF32, or kBF16.
void ConvertRow(const DenseKernels& kernels, const SourceRows& from, int64_t row, int64_t n, DType type, void* to);

}  // namespace duo
