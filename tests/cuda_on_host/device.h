// The device of the stand-in for CUDA. The host cannot touch its memory outside kernels and copies. Its queue of work
// runs when a caller waits for it, not before. It fails on demand.
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
  size_t shared_bytes = 227 << 10;  // maximum per block
  int driver_version = 13000;
  bool has_graphs = true;
};
DeviceFacts& Facts();

/// The next kernel that runs sets this error (a cudaError), as an asynchronous fault does.
void FailNextKernel(int error);

/// Bytes of device memory in use.
size_t UsedBytes();
/// Kernels run, and graphs launched, since the program began.
int64_t KernelsRun();
int64_t& GraphsLaunched();

/// Queues work. Runs all of it when the queue is full.
void Enqueue(std::function<void()> work);
/// Runs all queued work.
void Drain();

void* AllocateDevice(size_t bytes);  // null when not enough device memory is free
void FreeDevice(void* data);
void* AllocatePinned(size_t bytes);
void FreePinned(void* data);
/// Whether the bytes are in pinned memory. A copy to the device reads other memory before it returns, as CUDA's does.
bool IsPinned(const void* data);
bool IsDevice(const void* data, size_t bytes);

/// Reserves address space without memory, and maps memory into parts of it.
void* ReserveDevice(size_t bytes);
void ReleaseDevice(void* data, size_t bytes);
bool TakeBytes(size_t bytes);  // counts device memory as used; false when not enough is free
void GiveBytes(size_t bytes);
void MapDevice(void* data, size_t bytes);
void UnmapDevice(void* data, size_t bytes);

/// The host can touch device memory while an object of this class lives.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

/// Makes a call of a kernel from the addresses of its arguments. The call holds copies of their values.
using BindArguments = std::function<void()> (*)(const void* kernel, void** arguments);
void KnowKernel(const void* kernel, BindArguments bind);
std::function<void()> Bind(const void* kernel, void** arguments);  // dies when the kernel is not known

/// Dies when a word of the kernel's arguments looks like an address of host memory.
void CheckArgument(const void* bytes, size_t n);
void RunKernel(const Dim& grid, const Dim& block, size_t shared_bytes, const std::function<void()>& body);

int TakeError();  // the last error; does not clear it, because faults of kernels stay
int PeekError();
void SetError(int error);

}  // namespace cuda_on_host
