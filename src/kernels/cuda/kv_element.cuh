// One element of a cache of any type (docs/formats.md).
#pragma once

#include "kernels/cuda/device_math.cuh"
#include "kernels/kv_codes.h"

namespace duo {

template <KvType kType>
__device__ __forceinline__ float KvValue(const uint8_t* rows, KvPart part, int64_t row, int head_dim, int d) {
  if constexpr (kType == KvType::kF32) return reinterpret_cast<const float*>(rows)[row * head_dim + d];
  if constexpr (kType == KvType::kBF16) return FloatOfBf16(reinterpret_cast<const uint16_t*>(rows)[row * head_dim + d]);
  if constexpr (kType == KvType::kInt8 || kType == KvType::kInt4) {
    constexpr bool kBytes = kType == KvType::kInt8;
    const int code_bytes = CodeBytes(kBytes ? 8 : 4, head_dim);
    const uint8_t* block = rows + row / kCodeRows * kCodeRows * (code_bytes + 4);
    const int r = static_cast<int>(row % kCodeRows);
    int byte, shift = 0;
    if (part == KvPart::kKeys) {
      byte = kBytes ? 64 * (d / 4) + 4 * r + d % 4 : 64 * (d / 8) + 4 * r + d % 4;
      if (!kBytes) shift = d % 8 < 4 ? 0 : 4;
    } else {
      byte = 4 * code_bytes * (r / 4) + 4 * (kBytes ? d : d / 2) + r % 4;
      if (!kBytes) shift = d % 2 * 4;
    }
    const int code = block[byte] >> shift & (kBytes ? 255 : 15);
    const auto* params = reinterpret_cast<const uint16_t*>(block + kCodeRows * code_bytes + 4 * r);
    return FloatOfBf16(params[1]) + FloatOfBf16(params[0]) * static_cast<float>(code);
  }
  return 0;
}

}  // namespace duo
