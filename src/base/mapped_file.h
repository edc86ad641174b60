// A file mapped read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "duo/result.h"

struct stat;

namespace duo {

/// How a mapped file has changed since it was opened.
enum class FileChange : uint8_t {
  kNone,
  kGone,      // its name no longer exists; the mapping still shows the whole old file
  kReplaced,  // another file has its name; the mapping still shows the whole old file
  kWritten,   // it was written to, lengthened or cut; the mapping shows a mixture of old and new
};
/// Whether opening follows a symbolic link.
enum class Links : uint8_t { kFollow, kRefuse };

/// Owns a read-only mapping. Its bytes live until it is destroyed or moved from, and must not be written to. If
/// somebody truncates the file while it is mapped, reads fail with SIGBUS, as with every mapping.
class MappedFile {
 public:
  MappedFile() = default;
  /// Errors as OpenError and RefuseLfsPointer (base/file.h); kIo. Directories, pipes and the like give
  /// kInvalidArgument, and a pipe does not block. An empty file maps to size() == 0.
  static Result<MappedFile> Open(const std::string& path, Links links = Links::kFollow);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  const std::string& path() const { return path_; }

  /// Compares the file that has this name now with the one that was opened: device, inode, size and modification time.
  /// A touched file counts as written to. Costs a system call. Thread safe.
  FileChange Change() const;

  /// Removes these bytes from the process's resident memory, for bytes that will not be read again soon. Reading them
  /// brings them back. Returns false and does nothing when they are not in this file.
  bool Forget(const void* from, size_t bytes) const;

 private:
  /// Identifies one state of a file.
  struct Identity {
    uint64_t device = 0, inode = 0;
    int64_t size = 0, changed_s = 0, changed_ns = 0;
  };
  static Identity IdentityOf(const struct stat& info);

  std::string path_;
  Identity opened_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace duo
