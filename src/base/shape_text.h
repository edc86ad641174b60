// Formats shapes for messages.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>

namespace duo {

/// "[512, 4096]"; "[]" for a scalar.
inline std::string ShapeText(std::span<const int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace duo
