// Small products of floats inside loops that are already parallel, through oneDNN.
#pragma once

#include <cstdint>

namespace duo {

enum class Transpose : uint8_t { kNo, kYes };

/// c = alpha op(a) op(b) + beta c, row-major: op(a) [m, k], op(b) [k, n], c [m, n]. Uses only the calling thread.
struct BlockGemm {
  const float* a = nullptr;  // [m, k], or [k, m] when transposed
  int64_t a_stride = 0;      // floats between rows as they lie in memory; b_stride and c_stride too
  Transpose a_op = Transpose::kNo;
  const float* b = nullptr;  // [k, n], or [n, k] when transposed
  int64_t b_stride = 0;
  Transpose b_op = Transpose::kNo;
  int64_t m = 0, n = 0, k = 0;
  float alpha = 1.0f;
  float beta = 0.0f;
  float* c = nullptr;
  int64_t c_stride = 0;
};
void RunBlockGemm(const BlockGemm& g);

}  // namespace duo
