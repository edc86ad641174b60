// One element of a cache of any type (docs/formats.md).
#pragma once

#include "kernels/cuda/device_math.cuh"
#include "kernels/kv_code_layout.h"

namespace duo {

template <KvType kType>
__device__ __forceinline__ float KvValue(const uint8_t* rows, KvPart part, int64_t row, int head_dim, int d) {
  if constexpr (kType == KvType::kF32) return reinterpret_cast<const float*>(rows)[row * head_dim + d];
  if constexpr (kType == KvType::kBF16) return FloatOfBf16(reinterpret_cast<const uint16_t*>(rows)[row * head_dim + d]);
  if constexpr (kType == KvType::kInt8 || kType == KvType::kInt4) {
    const KvFormat format{part, kType, head_dim};
    const CodeRow of = CodeRowOf(format, row);
    const CodePlace at = PlaceOfCode(format, d);
    const int code = rows[of.At(at.word, at.i)] >> at.shift & (kType == KvType::kInt8 ? 255 : 15);
    const auto* params = reinterpret_cast<const uint16_t*>(rows + of.params);
    return FloatOfBf16(params[1]) + FloatOfBf16(params[0]) * static_cast<float>(code);
  }
  return 0;
}

}  // namespace duo
