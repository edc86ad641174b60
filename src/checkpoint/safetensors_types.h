// The element types of the safetensors format.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "checkpoint/safetensors.h"

namespace duo::safetensors {

struct TypeInfo {
  std::string_view name;  // in the header
  Type type;
  uint64_t bytes;  // per element
};

inline constexpr std::array<TypeInfo, 15> kTypes = {{{"F32", Type::kF32, 4},
                                                     {"BF16", Type::kBF16, 2},
                                                     {"F16", Type::kF16, 2},
                                                     {"F64", Type::kF64, 8},
                                                     {"I64", Type::kI64, 8},
                                                     {"I32", Type::kI32, 4},
                                                     {"I16", Type::kI16, 2},
                                                     {"I8", Type::kI8, 1},
                                                     {"U64", Type::kU64, 8},
                                                     {"U32", Type::kU32, 4},
                                                     {"U16", Type::kU16, 2},
                                                     {"U8", Type::kU8, 1},
                                                     {"BOOL", Type::kBool, 1},
                                                     {"F8_E4M3", Type::kF8, 1},
                                                     {"F8_E5M2", Type::kF8, 1}}};

}  // namespace duo::safetensors
