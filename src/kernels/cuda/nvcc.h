// CUDA's language, where it needs a name of ours. Tests that run the kernels on a CPU replace this file
// (tests/cuda_on_host).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

/// Declares `name`, the shared memory of a block of threads, whose size the launch gives.
#define DUO_SHARED_MEMORY(name) extern __shared__ __align__(128) uint8_t name[]

namespace duo {

/// The address that CUDA's functions know the kernel by.
template <class... Params>
const void* KernelAddress(void (*kernel)(Params...)) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace duo
