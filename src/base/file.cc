#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace duo {
namespace {

Status IoError(const std::string& path, const char* what, int error) {
  return Status(error == ENOENT ? StatusCode::kNotFound : StatusCode::kIo,
                path + ": " + what + ": " + std::strerror(error));
}

}  // namespace

Result<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return IoError(path, "cannot be opened", errno);
  std::string bytes;
  char block[1 << 16];
  for (;;) {
    const ssize_t n = read(fd, block, sizeof block);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      close(fd);
      return IoError(path, "cannot be read", error);
    }
    if (n == 0) break;
    if (bytes.size() + static_cast<size_t>(n) > max_bytes) {
      close(fd);
      return Status(StatusCode::kCorrupt,
                    path + ": larger than the " + std::to_string(max_bytes) + " bytes such a file may have");
    }
    bytes.append(block, static_cast<size_t>(n));
  }
  close(fd);
  return bytes;
}

Status CheckReplaceable(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode)) return OkStatus();
  return Status(StatusCode::kIo, path + ": is there and is not a regular file; it will not be replaced");
}

Status WriteFileAtomic(const std::string& path, std::string_view bytes) {
  DUO_RETURN_IF_ERROR(CheckReplaceable(path));
  const std::string temporary = path + ".tmp" + std::to_string(getpid());
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Status(StatusCode::kIo, path + ": cannot be written: " + std::strerror(errno));
  auto fail = [&](const char* what) {
    Status status(StatusCode::kIo, path + ": " + what + ": " + std::strerror(errno));
    close(fd);
    unlink(temporary.c_str());
    return status;
  };
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("cannot be written");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  if (fsync(fd) != 0) return fail("cannot be flushed to disk");
  if (rename(temporary.c_str(), path.c_str()) != 0) return fail("cannot be renamed into place");
  close(fd);
  return OkStatus();
}

bool FileExists(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

bool IsDirectory(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

Status MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error && !IsDirectory(path)) {
    return Status(StatusCode::kIo, path + ": cannot be created as a directory: " + error.message());
  }
  return OkStatus();
}

}  // namespace duo
