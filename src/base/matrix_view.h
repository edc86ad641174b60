// Borrowed weights of a linear layer, plain or quantised.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/align.h"
#include "base/tensor_view.h"

namespace duo {

/// int4 weights are stored in blocks of 16 outputs. A block is a sequence of pieces of 64 inputs, and a piece has the
/// codes of its two groups of 32 inputs, then their scales (kernels/weight_codes.h).
constexpr int64_t kInt4Rows = 16;
constexpr int64_t kInt4Inputs = 64;
constexpr int64_t kInt4Group = 32;
constexpr int64_t kInt4CodeBytes = kInt4Rows * kInt4Group / 2;  // codes of a group
constexpr int64_t kInt4ScaleBytes = kInt4Rows * 2;              // scales of a group
constexpr size_t kInt4PieceBytes = 2 * (kInt4CodeBytes + kInt4ScaleBytes);

/// Offset in a piece of the four bytes with codes 8 * word .. 8 * word + 7 of output `row` in a group. The first four
/// codes are in the bytes' low halves, the other four in the high halves.
constexpr int64_t Int4WordAt(int64_t group, int64_t word, int64_t row) {
  return kInt4CodeBytes * group + 4 * (kInt4Rows * word + row);
}
/// Offset in a piece of the bf16 scale of output `row` in a group.
constexpr int64_t Int4ScaleAt(int64_t group, int64_t row) {
  return 2 * kInt4CodeBytes + kInt4ScaleBytes * group + 2 * row;
}

inline size_t Int4BlockBytes(int64_t n_in) { return DivideUp(n_in, kInt4Inputs) * kInt4PieceBytes; }
inline size_t Int4Bytes(int64_t n_out, int64_t n_in) { return DivideUp(n_out, kInt4Rows) * Int4BlockBytes(n_in); }

/// Does not own its bytes. The function that returns a view says how long they live.
struct MatrixView {
  const void* data = nullptr;    // [n_out, n_in] elements; int4 blocks for kU8
  DType dtype = DType::kBF16;    // kF32, kBF16, kF16, kI8 (int8) or kU8 (int4)
  const float* scale = nullptr;  // [n_out], only for int8: a weight is scale * number
  int64_t n_out = 0;
  int64_t n_in = 0;

  /// Bytes of the matrix, scales included.
  size_t bytes() const {
    if (dtype == DType::kU8) return Int4Bytes(n_out, n_in);
    return n_out * n_in * DTypeBytes(dtype) + (scale == nullptr ? 0 : n_out * sizeof(float));
  }
  /// "bf16", "int8"...
  const char* type_name() const {
    return dtype == DType::kI8 ? "int8" : dtype == DType::kU8 ? "int4" : DTypeName(dtype);
  }
};

}  // namespace duo
