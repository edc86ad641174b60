// The dense kernels of each instruction set, one namespace per level; kernel_table.h is how callers reach them.
// Included by files compiled with -mavx...: nothing here may define a function that such a file could emit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "duo/dtype.h"
#include "kernels/dense.h"

// What DenseKernels (kernel_table.h) lists, in the same order and with the same contracts.
#define DUO_DECLARE_DENSE_KERNELS(level)                        \
  namespace duo::level {                                        \
  void GemvRows(const Gemv& p);                                 \
  void RmsNormRows(const RmsNorm& p);                           \
  void RopeTokens(const Rope& p);                               \
  void SwiGluRange(const SwiGlu& p);                            \
  void AddRange(float* x, const float* y, int64_t n);           \
  void F32ToBf16(const float* x, bf16* out, int64_t n);         \
  void RoundToBf16(const float* x, float* out, int64_t n);      \
  void Widen(const void* x, DType type, float* out, int64_t n); \
  double ReadSum(const void* x, size_t bytes);                  \
  }

DUO_DECLARE_DENSE_KERNELS(portable)
DUO_DECLARE_DENSE_KERNELS(avx2)
DUO_DECLARE_DENSE_KERNELS(avx512)

#undef DUO_DECLARE_DENSE_KERNELS
