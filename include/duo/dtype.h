// Element types of tensors and caches, and of products.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duo {

/// kI8 and kU8 hold quantised weights: int8 numbers and packed int4 blocks (docs/formats.md).
enum class DType : uint8_t { kF32, kBF16, kF16, kI8, kU8 };

/// Bytes of one element.
inline constexpr size_t DTypeBytes(DType type) {
  return type == DType::kF32 ? 4 : type == DType::kI8 || type == DType::kU8 ? 1 : 2;
}

/// "f32", "bf16", "f16", "i8", "u8". The first three are also the names on the command line and in JSON.
inline constexpr const char* DTypeName(DType type) {
  switch (type) {
    case DType::kF32: return "f32";
    case DType::kBF16: return "bf16";
    case DType::kF16: return "f16";
    case DType::kI8: return "i8";
    case DType::kU8: return "u8";
  }
  return "unknown";
}

/// How activations and products are computed.
enum class ComputeType : uint8_t {
  kF32,   // for checking: activations, products and accumulation are float everywhere
  kBF16,  // inputs of matrix products rounded to bf16; accumulation, residual stream and softmax statistics in float
  kInt8,  // W8A8: inputs of matrix products quantised with step = max|x| / 127 per token; needs int8 weights
};

/// "f32", "bf16", "int8".
inline constexpr const char* ComputeTypeName(ComputeType type) {
  return type == ComputeType::kF32 ? "f32" : type == ComputeType::kBF16 ? "bf16" : "int8";
}

/// How a model's matrices are stored: as in the checkpoint, or quantised (docs/formats.md).
enum class WeightType : uint8_t { kNative, kInt8, kInt4 };

/// "native", "int8", "int4".
inline constexpr const char* WeightTypeName(WeightType type) {
  return type == WeightType::kNative ? "native" : type == WeightType::kInt8 ? "int8" : "int4";
}

/// Element types of a KV cache. A row is one token's K or V of one head. With kInt8 and kInt4 each row has its own
/// `low` and `step`, and an element is low + step * code. Codes are 0..255 for kInt8 and 0..15 for kInt4.
enum class KvType : uint8_t { kF32, kBF16, kInt8, kInt4 };

/// Rows per block of interleaved codes; 1 for types whose rows are stored one after another. docs/formats.md has the
/// layout.
inline constexpr int KvBlockRows(KvType type) { return type == KvType::kInt8 || type == KvType::kInt4 ? 16 : 1; }

/// Bytes of one row of head_dim elements: the elements themselves, or the padded codes with their step and low.
inline constexpr size_t KvRowBytes(KvType type, int head_dim) {
  const auto n = static_cast<size_t>(head_dim);
  switch (type) {
    case KvType::kF32: return 4 * n;
    case KvType::kBF16: return 2 * n;
    case KvType::kInt8: return (n + 3) / 4 * 4 + 4;
    case KvType::kInt4: return (n + 7) / 8 * 4 + 4;
  }
  return 0;
}

/// Bytes of n_rows rows, rounded up to whole blocks.
inline constexpr size_t KvBytes(KvType type, int head_dim, int64_t n_rows) {
  const int64_t rows = KvBlockRows(type);
  return static_cast<size_t>((n_rows + rows - 1) / rows * rows) * KvRowBytes(type, head_dim);
}

/// "f32", "bf16", "int8", "int4": the names used on the command line and in JSON.
inline constexpr const char* KvTypeName(KvType type) {
  switch (type) {
    case KvType::kF32: return "f32";
    case KvType::kBF16: return "bf16";
    case KvType::kInt8: return "int8";
    case KvType::kInt4: return "int4";
  }
  return "unknown";
}

}  // namespace duo
