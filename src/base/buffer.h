// Owners of memory. Move-only. The result of data() is valid until the owner is destroyed or moved from.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/result.h"

namespace duo {

/// A 64-byte aligned block of heap memory, uninitialised.
class Buffer {
 public:
  Buffer() = default;
  /// kResourceExhausted when the system has no memory for it. bytes == 0 gives an empty buffer.
  static Result<Buffer> Allocate(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Address space that is reserved at once and backed by memory as it is committed, so that it grows without copying.
/// Committed pages read as zero before their first write. Not thread safe.
class VirtualBuffer {
 public:
  VirtualBuffer() = default;
  /// Reserves `bytes` of address space (2 MiB aligned), no memory. kResourceExhausted when the system refuses.
  static Result<VirtualBuffer> Reserve(size_t bytes);
  ~VirtualBuffer();
  VirtualBuffer(VirtualBuffer&& other) noexcept;
  VirtualBuffer& operator=(VirtualBuffer&& other) noexcept;
  VirtualBuffer(const VirtualBuffer&) = delete;
  VirtualBuffer& operator=(const VirtualBuffer&) = delete;

  /// Makes [offset, offset + bytes) readable and writable. Parts that are already committed do not change. The kernel
  /// is advised to use huge pages for whole 2 MiB blocks in the range. kResourceExhausted when the system refuses.
  Status Commit(size_t offset, size_t bytes);

  uint8_t* data() const { return data_; }
  size_t reserved_bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace duo
