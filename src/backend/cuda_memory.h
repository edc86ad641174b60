// Memory of the CUDA backend: blocks, and address space that gets memory piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/backend.h"
#include "kernels/cuda/stream.h"

namespace duo {

/// Bytes of device memory that nobody has taken.
uint64_t FreeCudaBytes();

/// As Backend::Allocate and Backend::Reserve. Work that is queued on `stream` is waited for before memory is given
/// back. kResourceExhausted with the bytes needed and free.
Result<DeviceMemoryPtr> AllocateCudaMemory(size_t bytes, CudaStream stream);

/// Reserves through the driver's virtual memory management; what is committed begins as zeros.
class CudaAddressSpace {
 public:
  /// Looks the driver's functions up. kUnsupported when it has none.
  static Result<std::unique_ptr<CudaAddressSpace>> Open(int device, CudaStream stream);
  ~CudaAddressSpace();
  Result<DeviceMemoryPtr> Reserve(size_t bytes);
  /// Committed memory comes in multiples of this.
  size_t granularity() const;

  struct Driver;

 private:
  explicit CudaAddressSpace(std::unique_ptr<Driver> driver);
  std::unique_ptr<Driver> driver_;
};

/// A block that only grows, kept between calls.
class CudaScratch {
 public:
  explicit CudaScratch(CudaStream stream) : stream_(stream) {}
  /// At least `bytes`; what is new of it begins as zeros, everything else as the last call left it or undefined.
  Result<uint8_t*> Get(size_t bytes);

 private:
  CudaStream stream_;
  DeviceMemoryPtr memory_;
};

}  // namespace duo
