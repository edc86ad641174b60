// Checks invariants. A failed check is a bug in duo. Bad input never fails a check; it gives a Status.
#pragma once

namespace duo::internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, const char* message);
}  // namespace duo::internal

#define DUO_CHECK(condition, message)                                                        \
  do {                                                                                       \
    if (!(condition)) ::duo::internal::CheckFailed(__FILE__, __LINE__, #condition, message); \
  } while (false)
