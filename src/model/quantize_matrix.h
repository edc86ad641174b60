// Quantising a model's matrices, one at a time.
#pragma once

#include <functional>

#include "base/buffer.h"
#include "base/matrix_view.h"
#include "duo/dtype.h"
#include "duo/result.h"

namespace duo {

/// Which matrices of a model become what: the layers' what was asked for; embedding and output matrix int8 in either
/// case, because every token's logits come through them.
inline WeightType HeadWeightType(WeightType type) { return type == WeightType::kNative ? type : WeightType::kInt8; }

/// Name of the tensor with the scales of an int8 matrix in a checkpoint: the matrix' own and this.
inline constexpr const char* kScaleSuffix = "_scale";

/// Owns codes and scales of one matrix.
struct QuantizedMatrix {
  Buffer codes;   // [n_out, n_in] int8, or Int4Bytes(n_out, n_in)
  Buffer scales;  // [n_out] float of int8, else empty
  MatrixView view() const;

  int64_t n_out = 0;
  int64_t n_in = 0;
  WeightType type = WeightType::kInt8;
};

/// Gives row `row` of a matrix as n_in floats; called by several threads at once.
using MatrixRows = std::function<void(int64_t row, float* out)>;

/// A matrix [n_out, n_in] as int8 or int4 (kernels/weight_codes.h), rows over threads. kResourceExhausted;
/// kCorrupt names the row that has a NaN or an infinity.
Result<QuantizedMatrix> QuantizeMatrix(int64_t n_out, int64_t n_in, const MatrixRows& row_of, WeightType type,
                                       int n_threads);

/// The rows of a plain matrix (f32, bf16 or f16), which must outlive them.
MatrixRows RowsOf(const MatrixView& matrix);

}  // namespace duo
