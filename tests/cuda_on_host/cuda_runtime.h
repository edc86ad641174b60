// Stands in for CUDA's header of this name, so that tests can run kernels, and the code that launches them, on the CPU.
// It has the part of CUDA that duo uses. fibers.h implements it inside kernels, and device.h outside of them.
#pragma once

#include <math.h>  // expf and similar functions in the global namespace, as in CUDA

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda_on_host/device.h"
#include "cuda_on_host/fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

using uint3 = cuda_on_host::Dim;
struct dim3 : cuda_on_host::Dim {
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : Dim{x_, y_, z_} {}  // NOLINT: implicit, as in CUDA
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---------------------------------------------------------------- inside kernels

#define threadIdx (::cuda_on_host::ThisThread().thread)
#define blockIdx (::cuda_on_host::ThisThread().block)
#define blockDim (::cuda_on_host::ThisThread().block_size)
#define gridDim (::cuda_on_host::ThisThread().grid_size)

inline void __syncthreads() { cuda_on_host::WaitForBlock(); }
inline void __syncwarp(unsigned = 0xffffffffu) { cuda_on_host::WaitForWarp(); }

template <class T>
T ValueOfLane(T mine, int lane) {
  T value;
  std::memcpy(&value, cuda_on_host::ExchangeInWarp(&mine, sizeof mine).of(lane), sizeof value);
  return value;
}
template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return ValueOfLane(value, from & 31);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int lane_mask) {
  return ValueOfLane(value, cuda_on_host::Lane() ^ lane_mask);
}

inline int atomicAdd(int* at, int n) {
  const int before = *at;
  *at += n;
  return before;
}
inline void __threadfence() {}
template <class T>
T __ldcg(const T* at) {
  return *at;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = x | uint64_t{y} << 32;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) out |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return out;
}
inline float __int2float_rn(int n) { return static_cast<float>(n); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyintf(x)); }

// ---------------------------------------------------------------- outside of kernels

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
};
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    default: return "another error";
  }
}

using cudaStream_t = struct CUstream_st*;
struct CUevent_st {
  int unused = 0;
};
using cudaEvent_t = CUevent_st*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDisableTiming = 2;

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
};

inline cudaError_t cudaGetDeviceCount(int* n) {
  const cuda_on_host::DeviceFacts& facts = cuda_on_host::Facts();
  *n = facts.n_devices;
  if (facts.driver_version < 13000) return cudaErrorInsufficientDriver;
  return facts.n_devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = cuda_on_host::Facts().driver_version;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int) {
  std::strcpy(prop->name, "this machine's CPU");
  prop->totalGlobalMem = cuda_on_host::Facts().memory_bytes;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const cuda_on_host::DeviceFacts& facts = cuda_on_host::Facts();
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = facts.n_processors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = facts.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = facts.minor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(facts.shared_bytes); break;
  }
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = cuda_on_host::Facts().memory_bytes;
  *free = *total - cuda_on_host::UsedBytes();
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return static_cast<cudaError_t>(cuda_on_host::TakeError()); }
inline cudaError_t cudaPeekAtLastError() { return static_cast<cudaError_t>(cuda_on_host::PeekError()); }

template <class T>
cudaError_t cudaMalloc(T** data, size_t bytes) {
  *data = static_cast<T*>(cuda_on_host::AllocateDevice(bytes));
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* data) {
  cuda_on_host::FreeDevice(data);
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMallocHost(T** data, size_t bytes) {
  *data = static_cast<T*>(cuda_on_host::AllocatePinned(bytes));
  return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* data) {
  cuda_on_host::FreePinned(data);
  return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t) {
  cuda_on_host::Drain();
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  cuda_on_host::Drain();
  return static_cast<cudaError_t>(cuda_on_host::PeekError());
}
inline cudaError_t cudaDeviceSynchronize() { return cudaStreamSynchronize(nullptr); }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaStreamSynchronize(nullptr); }
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 1.0f;
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  const bool from_device = kind != cudaMemcpyHostToDevice, to_device = kind != cudaMemcpyDeviceToHost;
  if (bytes == 0) return cudaSuccess;
  if (cuda_on_host::IsDevice(from, bytes) != from_device || cuda_on_host::IsDevice(to, bytes) != to_device) {
    cuda_on_host::Die("a copy's kind does not match its addresses");
  }
  const auto copy = [](void* dst, const void* src, size_t n) {
    if (cuda_on_host::PeekError() != 0) return;
    const cuda_on_host::DeviceAccess access;
    std::memcpy(dst, src, n);
  };
  if (!from_device && !cuda_on_host::IsPinned(from)) {  // the caller may change such a source after the call
    auto* kept = new uint8_t[bytes];
    std::memcpy(kept, from, bytes);
    cuda_on_host::Enqueue([=] {
      copy(to, kept, bytes);
      delete[] kept;
    });
    return cudaSuccess;
  }
  cuda_on_host::Enqueue([=] { copy(to, from, bytes); });
  if (!to_device && !cuda_on_host::IsPinned(to)) cuda_on_host::Drain();
  return static_cast<cudaError_t>(cuda_on_host::PeekError());
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  if (!cuda_on_host::IsDevice(to, bytes)) cuda_on_host::Die("the device sets memory of the host");
  cuda_on_host::Enqueue([=] {
    const cuda_on_host::DeviceAccess access;
    std::memset(to, value, bytes);
  });
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int value) {
  return static_cast<size_t>(value) > cuda_on_host::Facts().shared_bytes ? cudaErrorInvalidValue : cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim_, blockDim_;  // CUDA's names have no underscore, but those are macros here
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};

namespace cuda_on_host {
/// A kernel launch with its arguments.
struct Run {
  dim3 grid, block;
  size_t shared_bytes;
  std::function<void()> body;

  bool Valid() const {
    return grid.x != 0 && grid.y != 0 && grid.z != 0 && grid.y <= 65535 && grid.z <= 65535 &&
           block.x * block.y * block.z <= 1024 && shared_bytes <= Facts().shared_bytes;
  }
  void operator()() const { RunKernel(grid, block, shared_bytes, body); }
};
}  // namespace cuda_on_host

inline cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  cuda_on_host::Run run{config->gridDim_, config->blockDim_, config->dynamicSmemBytes,
                        cuda_on_host::Bind(kernel, arguments)};
  if (!run.Valid()) return cudaErrorInvalidValue;
  cuda_on_host::Enqueue(std::move(run));
  return cudaSuccess;
}

struct cudaKernelNodeParams {
  void* func;
  dim3 gridDim_, blockDim_;
  unsigned sharedMemBytes;
  void** kernelParams;
  void** extra;
};
struct CUgraphNode_st {
  cuda_on_host::Run run;
  std::vector<const CUgraphNode_st*> after;
};
struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};
constexpr size_t kCudaOnHostNodeBytes = 10 << 10;  // device memory per node: a guess at what a driver takes
struct CUgraphExec_st {
  std::vector<const CUgraphNode_st*> of;  // the graph's node of each of `nodes`
  std::vector<CUgraphNode_st> nodes;
};
using cudaGraph_t = CUgraph_st*;
using cudaGraphNode_t = CUgraphNode_st*;
using cudaGraphExec_t = CUgraphExec_st*;

inline cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  *graph = new CUgraph_st;
  return cuda_on_host::Facts().has_graphs ? cudaSuccess : cudaErrorNotSupported;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                          size_t n_after, const cudaKernelNodeParams* p) {
  auto added = std::make_unique<CUgraphNode_st>(
      CUgraphNode_st{{p->gridDim_, p->blockDim_, p->sharedMemBytes, cuda_on_host::Bind(p->func, p->kernelParams)}, {}});
  if (!added->run.Valid()) return cudaErrorInvalidValue;
  added->after.assign(after, after + n_after);
  *node = added.get();
  graph->nodes.push_back(std::move(added));
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (!cuda_on_host::TakeBytes(graph->nodes.size() * kCudaOnHostNodeBytes)) return cudaErrorMemoryAllocation;
  *exec = new CUgraphExec_st;
  for (const auto& node : graph->nodes) {
    (*exec)->of.push_back(node.get());
    (*exec)->nodes.push_back(*node);
  }
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  cuda_on_host::GiveBytes(exec->nodes.size() * kCudaOnHostNodeBytes);
  delete exec;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                                    const cudaKernelNodeParams* p) {
  cuda_on_host::Run run{p->gridDim_, p->blockDim_, p->sharedMemBytes, cuda_on_host::Bind(p->func, p->kernelParams)};
  if (!run.Valid()) return cudaErrorInvalidValue;
  for (size_t i = 0; i < exec->of.size(); ++i) {
    if (exec->of[i] != node) continue;
    exec->nodes[i].run = std::move(run);
    return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
/// Among the nodes that may run, queues the one that was added last. A missing dependency then shows in the results.
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  ++cuda_on_host::GraphsLaunched();
  const size_t n = exec->nodes.size();
  std::vector<bool> done(n);
  const auto is_done = [&](const CUgraphNode_st* node) {
    for (size_t i = 0; i < n; ++i) {
      if (exec->of[i] == node) return bool{done[i]};
    }
    return false;
  };
  for (size_t left = n; left > 0; --left) {
    size_t next = n;
    for (size_t i = 0; i < n; ++i) {
      bool may = !done[i];
      for (const CUgraphNode_st* node : exec->nodes[i].after) may = may && is_done(node);
      if (may) next = i;
    }
    if (next == n) return cudaErrorInvalidValue;
    cuda_on_host::Enqueue(exec->nodes[next].run);
    done[next] = true;
  }
  return cudaSuccess;
}
