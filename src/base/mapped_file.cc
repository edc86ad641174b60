#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/align.h"

namespace duo {

Result<MappedFile> MappedFile::Open(const std::string& path, Links links) {
  // A pipe without a writer would hold the opener up for ever.
  const int no_follow = links == Links::kRefuse ? O_NOFOLLOW : 0;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | no_follow);
  if (fd < 0) {
    const StatusCode code = errno == ENOENT ? StatusCode::kNotFound : StatusCode::kIo;
    return Status(code, path + ": cannot be opened: " + std::strerror(errno));
  }
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return Status(StatusCode::kInvalidArgument, path + ": not a regular file");
  }
  MappedFile file;
  file.size_ = static_cast<size_t>(info.st_size);
  if (file.size_ != 0) {
    void* p = mmap(nullptr, file.size_, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
      const int error = errno;
      close(fd);
      file.size_ = 0;
      return Status(StatusCode::kIo, path + ": cannot be mapped: " + std::strerror(error));
    }
    file.data_ = static_cast<const uint8_t*>(p);
  }
  close(fd);
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
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace duo
