// A file mapped read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "duo/result.h"

struct stat;

namespace duo {

/// The change of a mapped file since it was opened.
enum class FileChange : uint8_t {
  kNone,
  kGone,      // nothing has its name any more; the mapping still shows the old file, whole
  kReplaced,  // another file has its name; the mapping still shows the old one, whole
  kWritten,   // it was written to, lengthened or cut: the mapping shows a mixture of old and new
};
/// Says whether opening follows a symbolic link.
enum class Links : uint8_t { kFollow, kRefuse };

/// Owner of a read-only mapping. Its bytes live until it is destroyed or moved from, and must not be written to;
/// a file that is truncated by somebody else while mapped makes reads fail with SIGBUS, as with every mapping.
class MappedFile {
 public:
  MappedFile() = default;
  /// kIo; OpenError's and RefuseLfsPointer's errors (base/file.h). Directories, pipes and other non-files are
  /// kInvalidArgument, without waiting for a writer. An empty file maps to size() == 0.
  static Result<MappedFile> Open(const std::string& path, Links links = Links::kFollow);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  const std::string& path() const { return path_; }

  /// Compares the file of this name with the one that was opened: device, inode, size and time of the last change.
  /// Costs a system call. A touched file counts as written to. Thread safe.
  FileChange Change() const;

  /// Bytes that will not be read again soon leave this process' resident memory; reading them brings them back. False,
  /// and nothing is done, when they do not lie in this file.
  bool Forget(const void* from, size_t bytes) const;

 private:
  /// Tells one state of a file from another.
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
