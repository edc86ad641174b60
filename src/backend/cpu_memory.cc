#include "backend/cpu_memory.h"

#include <memory>
#include <utility>

namespace duo {
namespace {

class HeapMemory : public DeviceMemory {
 public:
  explicit HeapMemory(Buffer buffer) : buffer_(std::move(buffer)) {}
  uint8_t* data() const override { return buffer_.as<uint8_t>(); }
  size_t bytes() const override { return buffer_.bytes(); }
  Status Commit(size_t, size_t) override { return OkStatus(); }

 private:
  Buffer buffer_;
};

class VirtualMemory : public DeviceMemory {
 public:
  explicit VirtualMemory(VirtualBuffer buffer) : buffer_(std::move(buffer)) {}
  uint8_t* data() const override { return buffer_.data(); }
  size_t bytes() const override { return buffer_.reserved_bytes(); }
  Status Commit(size_t offset, size_t n) override { return buffer_.Commit(offset, n); }

 private:
  VirtualBuffer buffer_;
};

}  // namespace

Result<DeviceMemoryPtr> AllocateHostMemory(size_t bytes) {
  DUO_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(bytes));
  return DeviceMemoryPtr(std::make_unique<HeapMemory>(std::move(buffer)));
}

Result<DeviceMemoryPtr> ReserveHostMemory(size_t bytes) {
  DUO_ASSIGN_OR_RETURN(VirtualBuffer buffer, VirtualBuffer::Reserve(bytes));
  return DeviceMemoryPtr(std::make_unique<VirtualMemory>(std::move(buffer)));
}

Result<uint8_t*> Scratch::Get(size_t bytes) {
  if (buffer_.bytes() < bytes) {
    buffer_ = Buffer();
    DUO_ASSIGN_OR_RETURN(buffer_, Buffer::Allocate(bytes));
  }
  return buffer_.as<uint8_t>();
}

}  // namespace duo
