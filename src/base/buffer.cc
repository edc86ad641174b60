#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <utility>

#include "base/align.h"
#include "base/check.h"
#include "base/error.h"

namespace duo {
namespace {

size_t RoundDown(size_t n, size_t to) { return n / to * to; }

Status OutOfMemory(size_t bytes, const char* what) {
  return ResourceExhausted("the system has no {} for {} more bytes", what, bytes);
}

}  // namespace

Result<Buffer> Buffer::Allocate(size_t bytes) {
  Buffer b;
  if (bytes == 0) return b;
  if (bytes > SIZE_MAX - kHugePageBytes) return OutOfMemory(bytes, "memory");
  // Large blocks are aligned to and padded to huge pages: fewer page faults and fewer TLB misses.
  const size_t alignment = bytes >= 4 * kHugePageBytes ? kHugePageBytes : kCacheLineBytes;
  b.data_ = std::aligned_alloc(alignment, RoundUp(bytes, alignment));
  if (b.data_ == nullptr) return OutOfMemory(bytes, "memory");
  if (alignment == kHugePageBytes) madvise(b.data_, RoundDown(bytes, kHugePageBytes), MADV_HUGEPAGE);
  b.bytes_ = bytes;
  return b;
}

Buffer::~Buffer() { std::free(data_); }

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Result<VirtualBuffer> VirtualBuffer::Reserve(size_t bytes) {
  VirtualBuffer b;
  if (bytes == 0) return b;
  if (bytes > SIZE_MAX - 2 * kHugePageBytes) return OutOfMemory(bytes, "address space");
  // Reserve too much, then free what lies outside the aligned range.
  const size_t want = RoundUp(bytes, kPageBytes);
  void* raw = mmap(nullptr, want + kHugePageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return OutOfMemory(bytes, "address space");
  auto* begin = static_cast<uint8_t*>(raw);
  auto* aligned = reinterpret_cast<uint8_t*>(RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePageBytes));
  if (aligned != begin) munmap(begin, aligned - begin);
  const size_t tail = begin + want + kHugePageBytes - (aligned + want);
  if (tail != 0) munmap(aligned + want, tail);
  b.data_ = aligned;
  b.bytes_ = want;
  return b;
}

VirtualBuffer::~VirtualBuffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

VirtualBuffer::VirtualBuffer(VirtualBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

VirtualBuffer& VirtualBuffer::operator=(VirtualBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Status VirtualBuffer::Commit(size_t offset, size_t bytes) {
  if (bytes == 0) return OkStatus();
  DUO_CHECK(offset + bytes <= bytes_, "commit outside the reservation");
  const size_t begin = RoundDown(offset, kPageBytes);
  const size_t end = RoundUp(offset + bytes, kPageBytes);
  if (mprotect(data_ + begin, end - begin, PROT_READ | PROT_WRITE) != 0) return OutOfMemory(bytes, "memory");
  const size_t huge_begin = RoundUp(begin, kHugePageBytes);
  const size_t huge_end = RoundDown(end, kHugePageBytes);
  if (huge_begin < huge_end) madvise(data_ + huge_begin, huge_end - huge_begin, MADV_HUGEPAGE);
  return OkStatus();
}

}  // namespace duo
