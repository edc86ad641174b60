#include "kernels/cpu/dense/convert_rows.h"

#include <algorithm>
#include <cstring>

#include "base/bf16.h"
#include "base/matrix_view.h"

namespace duo {
namespace {

struct Row {
  const void* data;  // for int4, the block that contains the row
  DType type;
  float scale;       // int8 only
  int64_t in_block;  // int4 only: the row within its block
};

// Writes elements [first, first + n) as floats. `first` is a multiple of 64.
void WidenRow(const DenseKernels& kernels, const Row& row, int64_t first, int64_t n, float* out) {
  const auto* data = static_cast<const uint8_t*>(row.data);
  if (row.type == DType::kU8) {
    kernels.unpack4(data, row.in_block, first, n, out);
    return;
  }
  kernels.widen(data + first * DTypeBytes(row.type), row.type, out, n);
  if (row.type != DType::kI8) return;
  for (int64_t i = 0; i < n; ++i) out[i] *= row.scale;
}

// Converts through floats, one piece at a time.
void RowToBf16(const DenseKernels& kernels, const Row& row, int64_t n, bf16* to) {
  constexpr int64_t kPiece = 1024;
  float wide[kPiece];
  for (int64_t i = 0; i < n; i += kPiece) {
    const int64_t len = std::min(kPiece, n - i);
    WidenRow(kernels, row, i, len, wide);
    kernels.f32_to_bf16(wide, to + i, len);
  }
}

}  // namespace

const void* RowPtr(const SourceRows& from, int64_t row) {
  const auto* data = static_cast<const uint8_t*>(from.data);
  if (from.type == DType::kU8) return data + row / kInt4Rows * Int4BlockBytes(from.stride);
  return data + row * from.stride * DTypeBytes(from.type);
}

void ConvertRow(const DenseKernels& kernels, const SourceRows& from, int64_t row, int64_t n, DType type, void* to) {
  const Row source = {RowPtr(from, row), from.type, from.scale == nullptr ? 1.0f : from.scale[row], row % kInt4Rows};
  if (from.type == type) {
    std::memcpy(to, source.data, n * DTypeBytes(type));
  } else if (type == DType::kF32) {
    WidenRow(kernels, source, 0, n, static_cast<float*>(to));
  } else if (from.type == DType::kF32) {
    kernels.f32_to_bf16(static_cast<const float*>(source.data), static_cast<bf16*>(to), n);
  } else {
    RowToBf16(kernels, source, n, static_cast<bf16*>(to));
  }
}

}  // namespace duo
