// Memory of the CPU backend.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "base/buffer.h"

namespace duo {

/// Implement Backend::Allocate and Backend::Reserve.
Result<DeviceMemoryPtr> AllocateHostMemory(size_t bytes);
Result<DeviceMemoryPtr> ReserveHostMemory(size_t bytes);

/// A buffer that is kept between calls and only grows.
class Scratch {
 public:
  /// Returns at least `bytes` with undefined contents. They are valid until the next Get. kResourceExhausted.
  Result<uint8_t*> Get(size_t bytes);

 private:
  Buffer buffer_;
};

}  // namespace duo
