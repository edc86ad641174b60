// The dense kernels of one instruction set as a table of functions. Callers choose a table through kernel_table.h.
// Files compiled with -mavx... include this header, so it must not define a function that such a file could emit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "duo/dtype.h"
#include "kernels/dense.h"
#include "kernels/dense_backward.h"

namespace duo {

struct DenseKernels {
  void (*gemv)(const Gemv&);
  void (*rms_norm)(const RmsNorm&);
  void (*rope)(const Rope&);
  void (*swiglu)(const SwiGlu&);
  void (*add)(float* x, const float* y, int64_t n);                 // x += y
  void (*f32_to_bf16)(const float* x, bf16* out, int64_t n);        // round to nearest even
  void (*round_to_bf16)(const float* x, float* out, int64_t n);     // rounds to bf16 but stores floats; out may be x
  void (*widen)(const void* x, DType type, float* out, int64_t n);  // f32, bf16, f16, i8 -> f32
  Gemv4Kernels gemv4;        // rounds x to 15 bits per 32 inputs where that is faster
  Gemv4Kernels gemv4_exact;  // products of floats
  Gemv8Kernels gemv8;
  // Inputs [first, first + n) of row 0..15 of a block of int4 weights, as floats. `first` is a multiple of 64.
  void (*unpack4)(const uint8_t* block, int64_t row, int64_t first, int64_t n, float* out);
  void (*swiglu_backward)(const SwiGluBackward&);
  void (*softmax_backward)(const SoftmaxBackward&);
  double (*read_sum)(const void* x, size_t bytes);  // reads every byte, as fast as memory delivers
};

extern const DenseKernels kDensePortable;
extern const DenseKernels kDenseAvx2;
extern const DenseKernels kDenseAvx512;
extern const DenseKernels kDenseAvx512Vnni;

}  // namespace duo
