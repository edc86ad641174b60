#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/atomic_file.h"
#include "base/error.h"

namespace duo {
namespace {

// A pointer has fewer than 1024 bytes (specification of git-lfs).
constexpr size_t kMaxLfsPointerBytes = 1023;
constexpr std::string_view kLfsVersion = "version https://git-lfs.github.com/spec/v";

/// The target of a dangling link; empty for all other paths.
std::string MissingTarget(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error) || std::filesystem::exists(path, error)) return "";
  return std::filesystem::read_symlink(path, error).string();
}

}  // namespace

Result<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return OpenError(path, errno);
  std::string bytes;
  char block[1 << 16];
  for (;;) {
    const ssize_t n = read(fd, block, sizeof block);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      close(fd);
      return IoError("{}: cannot be read: {}", path, std::strerror(error));
    }
    if (n == 0) break;
    if (bytes.size() + n > max_bytes) {
      close(fd);
      return Corrupt("{}: larger than {} bytes, the limit for such a file", path, max_bytes);
    }
    bytes.append(block, n);
  }
  close(fd);
  DUO_RETURN_IF_ERROR(RefuseLfsPointer(bytes, path));
  return bytes;
}

Status OpenError(const std::string& path, int error) {
  if (error != ENOENT) return IoError("{}: cannot be opened: {}", path, std::strerror(error));
  if (const std::string target = MissingTarget(path); !target.empty()) {
    return NotFound("{}: is a link to {}, which does not exist; download the file again", path, target);
  }
  return NotFound("{}: cannot be opened: {}", path, std::strerror(error));
}

Status RefuseLfsPointer(std::string_view bytes, const std::string& path) {
  if (bytes.size() > kMaxLfsPointerBytes || !bytes.starts_with(kLfsVersion)) return OkStatus();
  return Corrupt("{}: is a git-lfs pointer, not the file itself; \"git lfs pull\" downloads it", path);
}

Status WriteFileAtomic(const std::string& path, std::string_view bytes) {
  DUO_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  DUO_RETURN_IF_ERROR(file.Write(bytes));
  return file.Commit();
}

bool FileExists(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? S_ISREG(info.st_mode) : !MissingTarget(path).empty();
}

std::optional<uint64_t> PlainFileBytes(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return info.st_size;
}

bool IsDirectory(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

Status MakePrivateDirectories(const std::string& path) {
  for (size_t end = path.find('/', 1); !IsDirectory(path); end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (mkdir(part.c_str(), 0700) != 0 && !IsDirectory(part)) {
      return IoError("{}: cannot be created as a directory: {}", part, std::strerror(errno));
    }
    if (end == std::string::npos) break;
  }
  return OkStatus();
}

Status MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error && !IsDirectory(path)) {
    return IoError("{}: cannot be created as a directory: {}", path, error.message());
  }
  return OkStatus();
}

}  // namespace duo
