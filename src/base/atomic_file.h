// A file that appears under its name only when it is complete. It is written under a temporary name beside it, flushed
// to disk, and renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

/// Ok when a rename may replace `path`: it does not exist, or it is a regular file. kIo when it is a directory, device
/// or pipe.
Status CheckReplaceable(const std::string& path);

/// The users who may read a new file.
enum class FileAccess : uint8_t {
  kUmask,  // the users that the process's umask allows
  kOwner,  // only the owner, whatever the umask says
};

/// Owns the unfinished file. Until Commit succeeds, `path` keeps its old content. The temporary file is in the same
/// directory. It is deleted at the first error, or when the owner is destroyed.
///
/// The temporary name is `path`, ".tmp" and a random number, and an existing file is never opened. So others who may
/// write into the directory cannot prepare a file of that name.
///
/// Every error is kIo and names `path` and the reason. Move-only. Not thread safe.
class AtomicFile {
 public:
  /// Errors as CheckReplaceable; also kIo when no file can be created in the directory.
  static Result<AtomicFile> Create(const std::string& path, FileAccess access = FileAccess::kUmask);
  ~AtomicFile() { Discard(); }
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends without buffering. After an error or Commit, neither Write nor Commit may be called.
  Status Write(const void* data, size_t bytes);
  Status Write(std::string_view text) { return Write(text.data(), text.size()); }
  /// Flushes to disk and renames. Afterwards `path` holds everything that was written, and a later crash does not
  /// change that.
  Status Commit();

 private:
  AtomicFile(std::string path, std::string temporary, int fd);
  Status Fail(const char* what);
  void Discard();

  std::string path_;
  std::string temporary_;  // empty when there is no file to remove
  int fd_ = -1;
};

}  // namespace duo
