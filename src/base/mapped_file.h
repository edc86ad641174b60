// A file mapped read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "duo/result.h"

namespace duo {

/// What opening does with a symbolic link.
enum class Links : uint8_t { kFollow, kRefuse };

/// Owner of a read-only mapping. Its bytes live until it is destroyed or moved from, and must not be written to;
/// a file that is truncated by somebody else while mapped makes reads fail with SIGBUS, as with every mapping.
class MappedFile {
 public:
  MappedFile() = default;
  /// kNotFound, kIo. Directories, pipes and other non-files are kInvalidArgument, without waiting for a writer. An
  /// empty file maps to size() == 0.
  static Result<MappedFile> Open(const std::string& path, Links links = Links::kFollow);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  /// Bytes that will not be read again soon leave this process' resident memory; reading them brings them back. False,
  /// and nothing is done, when they do not lie in this file.
  bool Forget(const void* from, size_t bytes) const;

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace duo
