// Borrowed weights of a linear layer, plain or quantised.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/align.h"
#include "base/tensor_view.h"

namespace duo {

/// int4 weights lie in blocks of 16 outputs, and there in pieces of 64 inputs: codes of both groups of 32 inputs, then
/// their scales (kernels/weight_codes.h).
constexpr int64_t kInt4Rows = 16;
constexpr int64_t kInt4Inputs = 64;
constexpr int64_t kInt4Group = 32;
constexpr int64_t kInt4CodeBytes = kInt4Rows * kInt4Group / 2;  // of a group
constexpr int64_t kInt4ScaleBytes = kInt4Rows * 2;              // likewise
constexpr size_t kInt4PieceBytes = 2 * (kInt4CodeBytes + kInt4ScaleBytes);

/// Where a piece has codes 8 word .. 8 word + 7 of one output in a group, four bytes: inputs 0..3 in their low halves,
/// 4..7 in the high ones.
constexpr int64_t Int4WordAt(int64_t group, int64_t word, int64_t row) {
  return kInt4CodeBytes * group + 4 * (kInt4Rows * word + row);
}
/// And its scale, bf16.
constexpr int64_t Int4ScaleAt(int64_t group, int64_t row) {
  return 2 * kInt4CodeBytes + kInt4ScaleBytes * group + 2 * row;
}

inline size_t Int4BlockBytes(int64_t n_in) {
  return static_cast<size_t>(DivideUp(n_in, kInt4Inputs)) * kInt4PieceBytes;
}
inline size_t Int4Bytes(int64_t n_out, int64_t n_in) {
  return static_cast<size_t>(DivideUp(n_out, kInt4Rows)) * Int4BlockBytes(n_in);
}

/// Does not own its bytes: whoever hands one out says until when they live.
struct MatrixView {
  const void* data = nullptr;    // [n_out, n_in] dtype; of kU8 int4 blocks
  DType dtype = DType::kBF16;    // kF32, kBF16, kF16; kI8: int8; kU8: int4
  const float* scale = nullptr;  // [n_out] of int8: a weight is scale * number
  int64_t n_out = 0;
  int64_t n_in = 0;

  /// With the scales.
  size_t bytes() const {
    if (dtype == DType::kU8) return Int4Bytes(n_out, n_in);
    return static_cast<size_t>(n_out * n_in) * DTypeBytes(dtype) +
           (scale == nullptr ? 0 : static_cast<size_t>(n_out) * sizeof(float));
  }
  /// "bf16", "int8"...
  const char* type_name() const {
    return dtype == DType::kI8 ? "int8" : dtype == DType::kU8 ? "int4" : DTypeName(dtype);
  }
};

}  // namespace duo
