// Arrays for kernel tests, misaligned on purpose and with NaN around them. A kernel that reads past an end computes
// NaN, and one that writes past an end is caught.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "duo/dtype.h"

namespace duo::testing_util {

inline constexpr int64_t kPad = 80;
inline constexpr uint8_t kPadByte = 0xff;  // a NaN in f32, bf16 and f16

/// n elements of `type`, `shift` elements after a vector boundary. All bytes are 0xff (NaN) until set.
class Guarded {
 public:
  Guarded(int64_t n, DType type, int64_t shift = 1) : n_(n), type_(type), offset_((kPad + shift) * DTypeBytes(type)) {
    bytes_.resize(offset_ + (n + kPad) * DTypeBytes(type), kPadByte);
  }

  void* data() { return bytes_.data() + offset_; }
  float* f32() { return static_cast<float*>(data()); }
  bf16* b16() { return static_cast<bf16*>(data()); }

  void Set(int64_t i, double value) {
    const float f = value;
    if (type_ == DType::kF32) f32()[i] = f;
    if (type_ == DType::kBF16) b16()[i] = ToBf16(f);
    if (type_ == DType::kF16) static_cast<f16*>(data())[i] = NearHalf(f);
  }
  Guarded& Fill(Rng& rng, double scale = 1.0) {
    for (int64_t i = 0; i < n_; ++i) Set(i, rng.Normal() * scale);
    return *this;
  }
  std::vector<float> Floats() {
    std::vector<float> out(n_);
    std::memcpy(out.data(), data(), out.size() * sizeof(float));
    return out;
  }
  /// Whether everything outside the n elements is unchanged.
  bool GuardsIntact() const {
    const int64_t end = offset_ + n_ * DTypeBytes(type_);
    for (int64_t i = 0; i < std::ssize(bytes_); ++i) {
      if ((i < offset_ || i >= end) && bytes_[i] != kPadByte) return false;
    }
    return true;
  }

 private:
  // A half near f, for |f| < 65504, with a truncated mantissa. Tests do not need the nearest half.
  static f16 NearHalf(float f) {
    uint32_t u;
    std::memcpy(&u, &f, sizeof u);
    const int biased = (u >> 23) & 0xff, exponent = biased - 112;
    const uint32_t sign = (u >> 16) & 0x8000u;
    if (exponent <= 0) return {static_cast<uint16_t>(sign | ((u >> 20) & 7u))};  // a small subnormal
    return {static_cast<uint16_t>(sign | static_cast<uint32_t>(exponent) << 10 | ((u >> 13) & 0x3ffu))};
  }

  int64_t n_;
  DType type_;
  int64_t offset_;
  std::vector<uint8_t> bytes_;
};

inline constexpr double kUnit = 0x1p-24;  // unit roundoff of float

inline std::vector<float> Normal(Rng* rng, int64_t n, double deviation = 1.0) {
  std::vector<float> x(n);
  for (float& value : x) value = rng->Normal() * deviation;
  return x;
}

}  // namespace duo::testing_util
