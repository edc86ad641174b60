// The table of dense kernels over a vector type V (vec_<isa>.h). Each instruction set's file makes its own.
#pragma once

#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/elementwise_loop.h"
#include "kernels/cpu/gemv_loop.h"

namespace duo {
namespace {

template <class V>
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
          .swiglu_backward = Loop::SwiGluBackwardRange,
          .softmax_backward = Loop::SoftmaxBackwardRow,
          .read_sum = Loop::ReadSum};
}

}  // namespace
}  // namespace duo
