#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/align.h"
#include "base/error.h"
#include "base/file.h"

namespace duo {

MappedFile::Identity MappedFile::IdentityOf(const struct stat& info) {
  return {.device = info.st_dev,
          .inode = info.st_ino,
          .size = info.st_size,
          .changed_s = info.st_mtim.tv_sec,
          .changed_ns = info.st_mtim.tv_nsec};
}

FileChange MappedFile::Change() const {
  struct stat info {};
  if (stat(path_.c_str(), &info) != 0) return FileChange::kGone;
  const Identity now = IdentityOf(info);
  if (now.device != opened_.device || now.inode != opened_.inode) return FileChange::kReplaced;
  const bool same =
      now.size == opened_.size && now.changed_s == opened_.changed_s && now.changed_ns == opened_.changed_ns;
  return same ? FileChange::kNone : FileChange::kWritten;
}

Result<MappedFile> MappedFile::Open(const std::string& path, Links links) {
  // Without O_NONBLOCK, opening a pipe that has no writer would block for ever.
  const int no_follow = links == Links::kRefuse ? O_NOFOLLOW : 0;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | no_follow);
  if (fd < 0) return OpenError(path, errno);
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return InvalidArgument("{}: not a regular file", path);
  }
  MappedFile file;
  file.path_ = path;
  file.opened_ = IdentityOf(info);
  file.size_ = info.st_size;
  if (file.size_ != 0) {
    void* p = mmap(nullptr, file.size_, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
      const int error = errno;
      close(fd);
      file.size_ = 0;
      return IoError("{}: cannot be mapped: {}", path, std::strerror(error));
    }
    file.data_ = static_cast<const uint8_t*>(p);
  }
  close(fd);
  DUO_RETURN_IF_ERROR(RefuseLfsPointer({reinterpret_cast<const char*>(file.data_), file.size_}, path));
  return file;
}

bool MappedFile::Forget(const void* from, size_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(from), file = reinterpret_cast<uintptr_t>(data_);
  if (data_ == nullptr || begin < file || begin - file > size_ || bytes > size_ - (begin - file)) return false;
  const uintptr_t first = begin / kPageBytes * kPageBytes;
  madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_DONTNEED);  // a hint: may fail
  return true;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      opened_(other.opened_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(opened_, other.opened_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace duo
