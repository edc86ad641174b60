// The length of the common prefix of two sequences of tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace duo {

inline int64_t CommonPrefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t n = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + n, b.begin()).first - a.begin();
}

}  // namespace duo
