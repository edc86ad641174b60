// Durations in seconds, from a clock that never jumps.
#pragma once

#include <chrono>

namespace duo {

using Clock = std::chrono::steady_clock;

inline double SecondsBetween(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

inline double SecondsSince(Clock::time_point begin) { return SecondsBetween(begin, Clock::now()); }

}  // namespace duo
