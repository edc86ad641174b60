// Formats shapes for messages.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace duo {

/// "[512, 4096]"; "[]" for a scalar.
inline std::string ShapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

}  // namespace duo
