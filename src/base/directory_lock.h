// Keeps two processes from writing into one directory.
#pragma once

#include <string>

#include "duo/result.h"

namespace duo {

/// An advisory lock, held until it is destroyed or the process ends in any way. It leaves no file.
class DirectoryLock {
 public:
  /// kUnavailable when another process, or another lock of this process, holds it. kIo when the directory does not
  /// exist. Always succeeds on a file system without locks.
  static Result<DirectoryLock> Take(const std::string& directory);
  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&& other) noexcept;
  ~DirectoryLock();

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace duo
