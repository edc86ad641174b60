// The kernels of one instruction set as a table of functions. Immutable, static storage.
#pragma once

#include "base/bf16.h"
#include "kernels/attention.h"
#include "kernels/cpu/isa.h"
#include "kernels/dense.h"

namespace duo {

struct AttentionKernels {
  void (*decode)(const DecodeAttention&);
  void (*prefill)(const PrefillAttention&);
};

struct DenseKernels {
  void (*gemv)(const Gemv&);
  void (*rms_norm)(const RmsNorm&);
  void (*rope)(const Rope&);
  void (*swiglu)(const SwiGlu&);
  void (*add)(float* x, const float* y, int64_t n);                 // x += y
  void (*f32_to_bf16)(const float* x, bf16* out, int64_t n);        // round to nearest even
  void (*round_to_bf16)(const float* x, float* out, int64_t n);     // the same values, kept as float; in place allowed
  void (*widen)(const void* x, DType type, float* out, int64_t n);  // f32, bf16, f16 -> f32
  double (*read_sum)(const void* x, size_t bytes);                  // touches every byte as fast as memory gives it
};

/// Every level has every function; a level without an own variant of one points to the next lower level's.
const AttentionKernels& AttentionKernelsFor(Isa isa);
const DenseKernels& DenseKernelsFor(Isa isa);

}  // namespace duo
