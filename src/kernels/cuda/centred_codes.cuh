// 8- and 4-bit codes of K and V as numbers that tensor cores multiply.
#pragma once

#include "duo/dtype.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/ptx.cuh"

namespace duo {

/// Two codes of a word minus the middle of their range, as bf16, which holds them exactly. For int8 the codes are bytes
/// 0 and 2, for int4 the lower halves of these bytes. The bf16 number 0x4300 is 128, and its last seven bits count up
/// from there.
template <KvType kType>
__device__ __forceinline__ uint32_t CentredCodes(uint32_t word) {
  if constexpr (kType == KvType::kInt8) {
    // 128 + the lower seven bits, minus 128 where the eighth bit is set, else minus 256.
    return SubtractBf16((word & 0x007f007fu) | 0x43004300u, (~word & 0x00800080u) | 0x43004300u);
  } else {
    return SubtractBf16((word & 0x000f000fu) | 0x43004300u, 0x43084308u);  // 136
  }
}
template <KvType kType>
constexpr float kMiddleCode = kType == KvType::kInt8 ? 128.0f : 8.0f;

/// The step of a row, and the value of its middle code.
struct StepAndMiddle {
  float step, middle;
};
template <KvType kType>
__device__ __forceinline__ StepAndMiddle StepOf(uint32_t params) {
  const float step = LowFloat(params);
  return {step, HighFloat(params) + kMiddleCode<kType> * step};
}

}  // namespace duo
