// Quantises a model's matrices, one at a time.
#pragma once

#include <functional>

#include "base/buffer.h"
#include "base/matrix_view.h"
#include "duo/dtype.h"
#include "duo/result.h"

namespace duo {

/// Type of the embedding and the output matrix if the layers' matrices have type `type`. It is int8 even if the layers
/// are int4, because the logits of every token depend on these matrices.
inline WeightType HeadWeightType(WeightType type) { return type == WeightType::kNative ? type : WeightType::kInt8; }

/// In a checkpoint, the scales of an int8 matrix are a tensor. Its name is the matrix's name plus this suffix.
inline constexpr const char* kScaleSuffix = "_scale";

/// Owns the codes (quantised values) and scales of one matrix.
struct QuantizedMatrix {
  Buffer codes;   // int8: [n_out, n_in]; int4: Int4Bytes(n_out, n_in) bytes
  Buffer scales;  // int8: [n_out] float; int4: empty
  MatrixView view() const;

  int64_t n_out = 0;
  int64_t n_in = 0;
  WeightType type = WeightType::kInt8;
};

/// Writes row `row` of a matrix to `out` as n_in floats. Several threads call it at once.
using MatrixRows = std::function<void(int64_t row, float* out)>;

/// Quantises a matrix [n_out, n_in] to int8 or int4 (kernels/weight_codes.h). The threads share the rows.
/// kResourceExhausted. kCorrupt names the first row that has a NaN or an infinity.
Result<QuantizedMatrix> QuantizeMatrix(int64_t n_out, int64_t n_in, const MatrixRows& row_of, WeightType type,
                                       int n_threads);

/// The rows of a plain matrix (f32, bf16 or f16). Its data must outlive the returned function.
MatrixRows RowsOf(const MatrixView& matrix);

}  // namespace duo
