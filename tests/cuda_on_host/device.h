// A device of the stand-in: memory that the host cannot touch outside kernels and copies, a queue of work that runs
// when somebody waits for it and no sooner, and failures on demand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "cuda_on_host/fibers.h"

namespace cuda_on_host {

struct DeviceFacts {
  int n_devices = 1;
  int major = 9, minor = 0;
  int n_processors = 4;
  size_t memory_bytes = size_t{2} << 30;
  size_t shared_bytes = 227 << 10;  // that a block may use
  int driver_version = 13000;
  bool has_graphs = true;
};
DeviceFacts& Facts();

/// The next kernel that runs leaves this error (of cudaError) behind, as an asynchronous fault does.
void FailNextKernel(int error);

/// Bytes of device memory that are taken.
size_t UsedBytes();
/// Kernels run since the program began, and graphs launched.
int64_t KernelsRun();
int64_t& GraphsLaunched();

/// Queues work; runs it at once when it is full.
void Enqueue(std::function<void()> work);
/// Runs what is queued.
void Drain();

void* AllocateDevice(size_t bytes);  // null: no memory
void FreeDevice(void* data);
void* AllocatePinned(size_t bytes);
void FreePinned(void* data);
/// Whether the bytes lie in pinned memory: others are copied before a copy to the device returns, as CUDA does.
bool IsPinned(const void* data);
bool IsDevice(const void* data, size_t bytes);

/// Address space without memory, and pieces of it that get some.
void* ReserveDevice(size_t bytes);
void ReleaseDevice(void* data, size_t bytes);
bool TakeBytes(size_t bytes);  // of the device's memory; false: there are none left
void GiveBytes(size_t bytes);
void MapDevice(void* data, size_t bytes);
void UnmapDevice(void* data, size_t bytes);

/// While one lives device memory can be touched.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

/// From a kernel's address to how it is run with arguments that are only addresses: their values are kept.
using BindArguments = std::function<void()> (*)(const void* kernel, void** arguments);
void KnowKernel(const void* kernel, BindArguments bind);
std::function<void()> Bind(const void* kernel, void** arguments);  // dies when nobody knows it

/// Dies when a word of the kernel's arguments looks like an address of host memory.
void CheckArgument(const void* bytes, size_t n);
void RunKernel(const Dim& grid, const Dim& block, size_t shared_bytes, const std::function<void()>& body);

int TakeError();  // the last one, which is forgotten
int PeekError();
void SetError(int error);

}  // namespace cuda_on_host
