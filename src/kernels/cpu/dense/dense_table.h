// The table of dense kernels for a vector type V (vec_<isa>.h) and a policy of int4 groups (gemv4_loop.h). The file of
// each instruction set makes its own table.
#pragma once

#include "kernels/cpu/dense/dense_kernels.h"
#include "kernels/cpu/dense/elementwise_loop.h"
#include "kernels/cpu/dense/gemv4_loop.h"
#include "kernels/cpu/dense/gemv8_loop.h"
#include "kernels/cpu/dense/gemv_loop.h"
#include "kernels/cpu/vec/vec_concept.h"

namespace duo {
namespace {

template <Vec V>
constexpr Gemv8Kernels Gemv8KernelsOf() {
  if constexpr (PairVec<V>) {
    return {.prepare = Gemv8Loop<V>::Prepare, .run = Gemv8Loop<V>::Run};
  } else {
    return {.prepare = nullptr, .run = nullptr};
  }
}

// V8 is V with the AddPairs that products with int8 weights use.
template <Vec V, Int4Groups<V> Groups, Vec V8 = V>
constexpr DenseKernels DenseKernelsOf() {
  using Loop = ElementwiseLoop<V>;
  return {.gemv = GemvLoop<V>::Run,
          .rms_norm = Loop::RmsNormRows,
          .rope = Loop::RopeTokens,
          .swiglu = Loop::SwiGluRange,
          .add = Loop::AddRange,
          .f32_to_bf16 = Loop::F32ToBf16,
          .round_to_bf16 = Loop::RoundToBf16,
          .widen = Loop::Widen,
          .gemv4 = Gemv4Loop<V, Groups>::Kernels(),
          .gemv4_exact = Gemv4Loop<V, FloatGroups<V>>::Kernels(),
          .gemv8 = Gemv8KernelsOf<V8>(),
          .unpack4 = Unpack4Loop<V>::Unpack,
          .swiglu_backward = Loop::SwiGluBackwardRange,
          .softmax_backward = Loop::SoftmaxBackwardRow,
          .read_sum = Loop::ReadSum};
}

}  // namespace
}  // namespace duo
