// Rounds up to multiples, and names the memory sizes that are rounded to.
#pragma once

#include <cstddef>
#include <type_traits>

namespace duo {

constexpr size_t kCacheLineBytes = 64;
constexpr size_t kPageBytes = 4096;
constexpr size_t kHugePageBytes = size_t{2} << 20;

/// n / size, rounded up. n >= 0, size > 0, and n + size must not overflow.
template <typename T>
constexpr T DivideUp(T n, std::type_identity_t<T> size) {
  return (n + size - 1) / size;
}

/// The smallest multiple of `size` that is >= n. Same conditions as DivideUp.
template <typename T>
constexpr T RoundUp(T n, std::type_identity_t<T> size) {
  return DivideUp(n, size) * size;
}

}  // namespace duo
