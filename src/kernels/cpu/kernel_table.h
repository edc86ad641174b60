// The kernels of one instruction set as tables of functions. The tables are immutable and have static storage.
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/dense/dense_kernels.h"
#include "kernels/cpu/vec/isa.h"

namespace duo {

struct AttentionKernels {
  void (*decode)(const DecodeAttention&);
  void (*prefill)(const PrefillAttention&);
};

/// Every level has every function. A level without its own variant of a function uses that of the next lower level.
const AttentionKernels& AttentionKernelsFor(Isa isa);
const DenseKernels& DenseKernelsFor(Isa isa);

}  // namespace duo
