// Keeps two processes from writing into one directory.
#pragma once

#include <string>

#include "duo/result.h"

namespace duo {

/// Held until it is destroyed, or its process ends in whatever way. Advisory, leaves no file.
class DirectoryLock {
 public:
  /// kUnavailable when another process (or another lock of this one) holds it; kIo when there is no such directory.
  /// A file system that knows no locks grants it.
  static Result<DirectoryLock> Take(const std::string& directory);
  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&& other) noexcept;
  ~DirectoryLock();

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace duo
