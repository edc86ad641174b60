// Stands in for the header of CUDA's driver. It has the driver's virtual memory management.
#pragma once

#include <cstdint>

#include "cuda_on_host/cuda_runtime.h"

enum CUresult : int { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2 };
using CUdeviceptr = unsigned long long;
using CUmemGenericAllocationHandle = unsigned long long;
enum CUmemAllocationType { CU_MEM_ALLOCATION_TYPE_PINNED = 1 };
enum CUmemLocationType { CU_MEM_LOCATION_TYPE_DEVICE = 1 };
enum CUmemAccess_flags { CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 };
enum CUmemAllocationGranularity_flags { CU_MEM_ALLOC_GRANULARITY_MINIMUM = 0 };
struct CUmemLocation {
  CUmemLocationType type;
  int id;
};
struct CUmemAllocationProp {
  CUmemAllocationType type;
  CUmemLocation location;
};
struct CUmemAccessDesc {
  CUmemLocation location;
  CUmemAccess_flags flags;
};

namespace cuda_on_host {
inline void* Pointer(CUdeviceptr address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }
}  // namespace cuda_on_host

inline CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  *address = reinterpret_cast<uintptr_t>(cuda_on_host::ReserveDevice(bytes));
  return CUDA_SUCCESS;
}
inline CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  cuda_on_host::ReleaseDevice(cuda_on_host::Pointer(address), bytes);
  return CUDA_SUCCESS;
}
// A handle is the number of its bytes.
inline CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp*,
                            unsigned long long) {
  if (bytes % (size_t{2} << 20) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (!cuda_on_host::TakeBytes(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = bytes;
  return CUDA_SUCCESS;
}
// Memory is freed when it is unmapped.
inline CUresult cuMemRelease(CUmemGenericAllocationHandle) { return CUDA_SUCCESS; }
inline CUresult cuMemMap(CUdeviceptr, size_t bytes, size_t, CUmemGenericAllocationHandle handle, unsigned long long) {
  return handle == bytes ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
inline CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc*, size_t) {
  cuda_on_host::MapDevice(cuda_on_host::Pointer(address), bytes);
  return CUDA_SUCCESS;
}
inline CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  cuda_on_host::UnmapDevice(cuda_on_host::Pointer(address), bytes);
  cuda_on_host::GiveBytes(bytes);
  return CUDA_SUCCESS;
}
inline CUresult cuMemGetAllocationGranularity(size_t* bytes, const CUmemAllocationProp*,
                                              CUmemAllocationGranularity_flags) {
  *bytes = size_t{2} << 20;
  return CUDA_SUCCESS;
}

// The runtime returns the driver's functions by name.
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0 };
constexpr unsigned long long cudaEnableDefault = 0;
inline cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
  const struct {
    const char* name;
    void* function;
  } known[] = {{"cuMemAddressReserve", reinterpret_cast<void*>(&cuMemAddressReserve)},
               {"cuMemAddressFree", reinterpret_cast<void*>(&cuMemAddressFree)},
               {"cuMemCreate", reinterpret_cast<void*>(&cuMemCreate)},
               {"cuMemRelease", reinterpret_cast<void*>(&cuMemRelease)},
               {"cuMemMap", reinterpret_cast<void*>(&cuMemMap)},
               {"cuMemSetAccess", reinterpret_cast<void*>(&cuMemSetAccess)},
               {"cuMemUnmap", reinterpret_cast<void*>(&cuMemUnmap)},
               {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(&cuMemGetAllocationGranularity)}};
  *result = cudaDriverEntryPointSuccess;
  for (const auto& entry : known) {
    if (std::strcmp(entry.name, name) != 0) continue;
    *function = entry.function;
    return cudaSuccess;
  }
  *function = nullptr;
  return cudaErrorInvalidValue;
}
