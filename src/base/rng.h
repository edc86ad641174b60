// Random numbers that are the same for the same seed on every machine and compiler. The standard library's
// distributions are not.
#pragma once

#include <cmath>
#include <cstdint>

namespace duo {

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, passes BigCrush, one multiply chain per draw. Not for
/// secrets.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  /// Uniform in [0, n), n >= 1. Multiply-shift (Lemire 2019): bias below n / 2^64.
  uint64_t Below(uint64_t n) { return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * n) >> 64); }
  /// Uniform in [0, 1) with 53 bits.
  double Uniform() { return (Next() >> 11) * 0x1.0p-53; }
  /// Standard normal (Box-Muller).
  double Normal() {
    const double u = 1.0 - Uniform();
    const double v = Uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
  }

 private:
  uint64_t state_;
};

}  // namespace duo
