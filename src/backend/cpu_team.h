// How many threads of the CPU do element-wise work.
#pragma once

#include <cstdint>

namespace duo {

/// One thread does element-wise work on up to this many elements. Waking the others would cost more.
inline constexpr int64_t kSerialElements = 1 << 15;
/// Elements of one task of ParallelFor.
inline constexpr int64_t kElementBlock = 1 << 14;

/// Number of threads, of n_threads, for element-wise work on n elements.
inline int TeamFor(int64_t n, int n_threads) { return n <= kSerialElements ? 1 : n_threads; }

}  // namespace duo
