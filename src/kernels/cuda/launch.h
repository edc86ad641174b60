// Starting kernels, and definitions that all kernels use.
#pragma once

#include <cuda_runtime.h>

#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "duo/result.h"
#include "kernels/cuda/nvcc.h"
#include "kernels/cuda/stream.h"

namespace duo {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

/// kResourceExhausted for memory, kInternal for anything else. The message is like
/// "CUDA: decode attention: an illegal memory access...".
inline Status CudaStatus(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return OkStatus();
  cudaGetLastError();  // clears the error, or a library would take it for its own
  const StatusCode code = error == cudaErrorMemoryAllocation ? StatusCode::kResourceExhausted : StatusCode::kInternal;
  return Status(code, "CUDA: " + what + ": " + cudaGetErrorString(error));
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

/// A kernel and the arguments of one launch. Code that keeps a launch must copy the arguments.
struct CudaLaunch {
  const char* name;  // for the error
  const void* kernel;
  LaunchShape shape;
  std::span<void*> arguments;
  std::span<const size_t> argument_bytes;
};

/// Starts `kernel`; `name` is for the error. A fault while it runs is reported by a later call.
template <class... Params, class... Args>
Status Launch(CudaStream stream, const char* name, const LaunchShape& shape, void (*kernel)(Params...),
              Args&&... args) {
  static_assert((std::is_trivially_copyable_v<Params> && ...), "arguments are copied as bytes");
  constexpr size_t kSharedWithoutAsking = 48 << 10;
  if (shape.shared_bytes > kSharedWithoutAsking) {
    // Always sets the limit to the maximum, because launches that are held back may have other sizes and must not meet
    // a lower limit.
    int most = 0;
    cudaError_t error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
    if (error == cudaSuccess) {
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    }
    if (error == cudaSuccess && shape.shared_bytes > static_cast<size_t>(most)) error = cudaErrorInvalidValue;
    if (error != cudaSuccess) {
      return CudaStatus(error, std::string(name) + " with " + std::to_string(shape.shared_bytes >> 10) +
                                   " KiB of shared memory per block of threads");
    }
  }
  std::tuple<Params...> values(std::forward<Args>(args)...);
  return std::apply(
      [&](auto&... value) {
        void* arguments[] = {&value...};
        const size_t bytes[] = {sizeof value...};
        return stream.Start({name, KernelAddress(kernel), shape, arguments, bytes});
      },
      values);
}

/// Number of blocks of `per_block` that cover n, as a grid's dimension.
inline unsigned GridOf(int64_t n, int64_t per_block) { return (n + per_block - 1) / per_block; }

}  // namespace duo
