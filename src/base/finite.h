// Checks for NaN and infinities.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

namespace duo {

/// Whether no element is NaN or infinite. Tests only the exponents, so that compilers vectorise the loop: a row of 128k
/// logits takes a few microseconds.
inline bool AllFinite(std::span<const float> values) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t n_bad = 0;
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    n_bad += (bits & kExponent) == kExponent ? 1u : 0u;
  }
  return n_bad == 0;
}

}  // namespace duo
