// Memory of the CUDA backend: blocks, and address space that is backed by memory piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/backend.h"
#include "kernels/cuda/stream.h"

namespace duo {

/// Bytes of device memory that are free.
uint64_t FreeCudaBytes();

/// Implements Backend::Allocate. The block's destructor waits for the work queued on `stream` before it frees the
/// memory. kResourceExhausted, with the bytes needed and free.
Result<DeviceMemoryPtr> AllocateCudaMemory(size_t bytes, CudaStream stream);

/// Reserves address space through the driver's virtual memory management. Committed memory is zeroed.
class CudaAddressSpace {
 public:
  /// Looks up the driver's functions. kUnsupported if the driver lacks one or the device has no virtual memory
  /// management.
  static Result<std::unique_ptr<CudaAddressSpace>> Open(int device, CudaStream stream);
  ~CudaAddressSpace();
  /// Implements Backend::Reserve. Its blocks wait for `stream` and report errors as AllocateCudaMemory does. This must
  /// outlive the blocks.
  Result<DeviceMemoryPtr> Reserve(size_t bytes);
  /// Memory is committed in multiples of this.
  size_t granularity() const;

  struct Driver;

 private:
  explicit CudaAddressSpace(std::unique_ptr<Driver> driver);
  std::unique_ptr<Driver> driver_;
};

/// A block that is kept between calls and only grows.
class CudaScratch {
 public:
  explicit CudaScratch(CudaStream stream) : stream_(stream) {}
  /// Returns at least `bytes`. A block that had to grow is all zeros. Otherwise the contents are unchanged.
  Result<uint8_t*> Get(size_t bytes);

 private:
  CudaStream stream_;
  DeviceMemoryPtr memory_;
};

}  // namespace duo
