// An int4 matrix for tests, and the numbers that it represents.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/bf16.h"
#include "base/matrix_view.h"
#include "kernels/weight_codes.h"

namespace duo::testing_util {

/// The buffer ends with the last block, so asan sees reads past it.
struct Int4Blocks {
  Int4Blocks(const std::vector<float>& w, int64_t rows, int64_t inputs) : n_out(rows), n_in(inputs) {
    bytes.resize(Int4Bytes(n_out, n_in));
    for (int64_t row = 0; row < n_out; row += kInt4Rows) {
      QuantizeInt4Block(w.data() + row * n_in, std::min(kInt4Rows, n_out - row), n_in,
                        bytes.data() + row / kInt4Rows * Int4BlockBytes(n_in));
    }
  }
  /// The weight at the place that docs/formats.md gives.
  float At(int64_t row, int64_t i) const {
    const uint8_t* piece = bytes.data() + row / 16 * Int4BlockBytes(n_in) + i / 64 * kInt4PieceBytes;
    const int64_t half = i / 32 % 2, in_group = i % 32;
    const uint8_t pair = piece[256 * half + 64 * (in_group / 8) + 4 * (row % 16) + in_group % 4];
    bf16 scale;
    std::memcpy(&scale, piece + 512 + 32 * half + 2 * (row % 16), sizeof scale);
    return ToFloat(scale) * static_cast<float>((in_group % 8 < 4 ? pair & 15 : pair >> 4) - 8);
  }
  /// [n_out, n_in].
  std::vector<float> Floats() const {
    std::vector<float> x;
    for (int64_t r = 0; r < n_out; ++r) {
      for (int64_t i = 0; i < n_in; ++i) x.push_back(At(r, i));
    }
    return x;
  }
  int64_t n_out, n_in;
  std::vector<uint8_t> bytes;
};

}  // namespace duo::testing_util
