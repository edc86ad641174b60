// Memory of the CPU backend.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "base/buffer.h"

namespace duo {

/// As Backend::Allocate and Backend::Reserve.
Result<DeviceMemoryPtr> AllocateHostMemory(size_t bytes);
Result<DeviceMemoryPtr> ReserveHostMemory(size_t bytes);

/// A buffer that only grows, kept between calls.
class Scratch {
 public:
  /// At least `bytes`, contents undefined, valid until the next Get. kResourceExhausted.
  Result<uint8_t*> Get(size_t bytes);

 private:
  Buffer buffer_;
};

}  // namespace duo
