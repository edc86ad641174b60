// A file that appears under its name when it is whole: written beside it, flushed to disk, renamed over it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

/// Whether writing to a temporary name and renaming it over `path` would be right: nothing is there, or a regular file.
/// kIo for a directory, device or pipe, which a rename would replace.
Status CheckReplaceable(const std::string& path);

/// The users who may read a file that is made.
enum class FileAccess : uint8_t {
  kUmask,  // the users whom the process's umask lets
  kOwner,  // its owner alone, whatever the umask says
};

/// Owner of the unfinished file. Until Commit succeeds, `path` keeps what it held; the temporary file, which lies in
/// the same directory, goes with the first error or with the owner. Its name is `path`, ".tmp" and a random number, and
/// nothing that is there already is opened, so that others who may write into the directory cannot prepare it. Every
/// error is kIo and names `path` and the reason. Move-only. Not thread safe.
class AtomicFile {
 public:
  /// As CheckReplaceable; also when the directory takes no new file.
  static Result<AtomicFile> Create(const std::string& path, FileAccess access = FileAccess::kUmask);
  ~AtomicFile() { Discard(); }
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends, unbuffered. Neither Write nor Commit may follow an error or Commit.
  Status Write(const void* data, size_t bytes);
  Status Write(std::string_view text) { return Write(text.data(), text.size()); }
  /// Flushes to disk and renames: afterwards `path` holds all that was written, whatever crashes later.
  Status Commit();

 private:
  AtomicFile(std::string path, std::string temporary, int fd);
  Status Fail(const char* what);
  void Discard();

  std::string path_;
  std::string temporary_;  // empty when there is none to remove
  int fd_ = -1;
};

}  // namespace duo
