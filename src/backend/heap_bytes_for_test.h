// How much memory the program holds, for tests that compare it with a bound.
#pragma once

#include <cstddef>
#include <memory>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace duo::testing_util {

/// Bytes that the program has allocated and not freed. 0 where the system does not tell.
inline size_t HeapBytes() {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
#else
  return 0;
#endif
}

/// Whether HeapBytes() sees what is allocated. It does not under sanitizers, which have their own heap.
inline bool HeapBytesWork() {
  const size_t before = HeapBytes();
  const auto block = std::make_unique<char[]>(1 << 20);
  return HeapBytes() >= before + (1 << 20);
}

}  // namespace duo::testing_util
