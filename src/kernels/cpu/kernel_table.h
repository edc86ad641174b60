// The kernels of one instruction set as a table of functions. Immutable, static storage.
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/isa.h"

namespace duo {

struct AttentionKernels {
  void (*decode)(const DecodeAttention&);
  void (*prefill)(const PrefillAttention&);
};

/// Every level has every function; a level without an own variant of one points to the next lower level's.
const AttentionKernels& AttentionKernelsFor(Isa isa);
const DenseKernels& DenseKernelsFor(Isa isa);

}  // namespace duo
