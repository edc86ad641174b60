// The table of dense kernels over a vector type V (vec_<isa>.h). Each instruction set's file makes its own.
#pragma once

#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/elementwise_loop.h"
#include "kernels/cpu/gemv4_loop.h"
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
          .gemv4 = {.prepare = Gemv4Loop<V>::Prepare, .run = Gemv4Loop<V>::Run},
          .gemv4_exact = {.prepare = Gemv4Loop<V>::Prepare, .run = Gemv4Loop<V>::Run},
          .unpack4 = Gemv4Loop<V>::Unpack,
          .swiglu_backward = Loop::SwiGluBackwardRange,
          .softmax_backward = Loop::SoftmaxBackwardRow,
          .read_sum = Loop::ReadSum};
}

}  // namespace
}  // namespace duo
