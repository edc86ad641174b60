#include "base/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace duo {
namespace {

// 64 random bits make it almost certain that the first name is free.
constexpr int kMaxTries = 8;

Result<std::string> TemporaryName(const std::string& path) {
  uint64_t number = 0;
  if (getrandom(&number, sizeof number, 0) != ssize_t{sizeof number}) {
    return IoError("{}: cannot get a random number from the system: {}", path, std::strerror(errno));
  }
  return fmt::format("{}.tmp{:016x}", path, number);
}

}  // namespace

Status CheckReplaceable(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode)) return OkStatus();
  return IoError("{}: exists and is not a regular file; it will not be replaced", path);
}

Result<AtomicFile> AtomicFile::Create(const std::string& path, FileAccess access) {
  DUO_RETURN_IF_ERROR(CheckReplaceable(path));
  const mode_t mode = access == FileAccess::kOwner ? 0600 : 0644;
  for (int tries = 0;; ++tries) {
    DUO_ASSIGN_OR_RETURN(std::string temporary, TemporaryName(path));
    const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd >= 0) return AtomicFile(path, std::move(temporary), fd);
    if (errno != EEXIST || tries == kMaxTries) {
      return IoError("{}: cannot be written: {}", path, std::strerror(errno));
    }
  }
}

AtomicFile::AtomicFile(std::string path, std::string temporary, int fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      fd_(std::exchange(other.fd_, -1)) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(fd_, other.fd_);
  return *this;
}

Status AtomicFile::Write(const void* data, size_t bytes) {
  DUO_CHECK(fd_ >= 0, "Write on a file that has failed or is finished");
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = write(fd_, at, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Fail("cannot be written");
    at += n;
    bytes -= n;
  }
  return OkStatus();
}

Status AtomicFile::Commit() {
  DUO_CHECK(fd_ >= 0, "Commit on a file that has failed or is finished");
  if (fsync(fd_) != 0) return Fail("cannot be flushed to disk");
  // Network file systems report some failed writes only here.
  if (close(std::exchange(fd_, -1)) != 0) return Fail("cannot be written");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return Fail("cannot be renamed into place");
  temporary_.clear();
  return OkStatus();
}

Status AtomicFile::Fail(const char* what) {
  Status status = IoError("{}: {}: {}", path_, what, std::strerror(errno));
  Discard();
  return status;
}

void AtomicFile::Discard() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
  if (!temporary_.empty()) unlink(std::exchange(temporary_, {}).c_str());
}

}  // namespace duo
