// Element types of tensors and caches.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duo {

enum class DType : uint8_t { kF32, kBF16, kF16 };

/// Bytes of one element.
inline constexpr size_t DTypeBytes(DType type) { return type == DType::kF32 ? 4 : 2; }

/// "f32", "bf16", "f16": the names used on the command line and in JSON.
inline constexpr const char* DTypeName(DType type) {
  return type == DType::kF32 ? "f32" : type == DType::kBF16 ? "bf16" : "f16";
}

}  // namespace duo
