#include "backend/cuda_memory.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/align.h"
#include "base/error.h"
#include "base/memory_info.h"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

Status NoMemory(size_t bytes) {
  return ResourceExhausted("device memory: {} more are needed, but only {} are free", FormatBytes(bytes),
                           FormatBytes(FreeCudaBytes()));
}

class CudaBlock : public DeviceMemory {
 public:
  CudaBlock(uint8_t* data, size_t bytes, CudaStream stream) : data_(data), bytes_(bytes), stream_(stream) {}
  ~CudaBlock() override {
    cudaStreamSynchronize(stream_.get());
    cudaFree(data_);
  }
  CudaBlock(const CudaBlock&) = delete;
  CudaBlock& operator=(const CudaBlock&) = delete;
  uint8_t* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }
  Status Commit(size_t, size_t) override { return OkStatus(); }

 private:
  uint8_t* data_;
  size_t bytes_;
  CudaStream stream_;
};

}  // namespace

uint64_t FreeCudaBytes() {
  size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

Result<DeviceMemoryPtr> AllocateCudaMemory(size_t bytes, CudaStream stream) {
  uint8_t* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, std::max<size_t>(bytes, 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return NoMemory(bytes);
  }
  DUO_RETURN_IF_ERROR(CudaStatus(error, "allocating"));
  return DeviceMemoryPtr(std::make_unique<CudaBlock>(data, bytes, stream));
}

// Functions of the driver, looked up by name at run time. A program with this backend then starts on machines without a
// driver too.
struct CudaAddressSpace::Driver {
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  CUmemAllocationProp prop = {};
  size_t page_bytes = 0;
  CudaStream stream{nullptr};

  template <class Function>
  static Status Find(const char* name, Function* function) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    constexpr unsigned kVersion = 12000;
    const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, kVersion, cudaEnableDefault, &result);
    if (error != cudaSuccess || found == nullptr) {
      return Unsupported("the CUDA driver has no {}; install a newer driver", name);
    }
    *function = reinterpret_cast<Function>(found);
    return OkStatus();
  }
};

namespace {

// Address space in pages of page_bytes. mapped_[i] says whether page i has memory. Each entry of pieces_ is a range of
// pages that was mapped by one call. Pages stay mapped until the destructor, which waits for the stream first.
class CudaVirtualMemory : public DeviceMemory {
 public:
  CudaVirtualMemory(const CudaAddressSpace::Driver* driver, CUdeviceptr address, size_t bytes, size_t reserved_bytes)
      : driver_(driver),
        address_(address),
        bytes_(bytes),
        reserved_bytes_(reserved_bytes),
        mapped_(reserved_bytes / driver->page_bytes) {}
  ~CudaVirtualMemory() override {
    cudaStreamSynchronize(driver_->stream.get());
    for (const Piece& piece : pieces_) driver_->unmap(address_ + piece.offset, piece.bytes);
    driver_->free(address_, reserved_bytes_);
  }
  CudaVirtualMemory(const CudaVirtualMemory&) = delete;
  CudaVirtualMemory& operator=(const CudaVirtualMemory&) = delete;

  uint8_t* data() const override { return reinterpret_cast<uint8_t*>(static_cast<uintptr_t>(address_)); }
  size_t bytes() const override { return bytes_; }

  Status Commit(size_t offset, size_t n) override {
    if (n == 0) return OkStatus();
    const size_t page = driver_->page_bytes, end = DivideUp(offset + n, page);
    for (size_t at = offset / page; at < end;) {
      if (mapped_[at]) {
        ++at;
        continue;
      }
      size_t stop = at + 1;
      while (stop < end && !mapped_[stop]) ++stop;
      DUO_RETURN_IF_ERROR(MapPages(at, stop));
      at = stop;
    }
    return OkStatus();
  }

 private:
  struct Piece {
    size_t offset, bytes;
  };

  Status MapPages(size_t begin, size_t end) {
    const size_t page = driver_->page_bytes, offset = begin * page, bytes = (end - begin) * page;
    CUmemGenericAllocationHandle handle = 0;
    const CUresult created = driver_->create(&handle, bytes, &driver_->prop, 0);
    if (created == CUDA_ERROR_OUT_OF_MEMORY) return NoMemory(bytes);
    if (created != CUDA_SUCCESS) return Failed("memory", created);
    const CUresult mapped = driver_->map(address_ + offset, bytes, 0, handle, 0);
    driver_->release(handle);  // the driver frees the memory once it is unmapped
    if (mapped == CUDA_ERROR_OUT_OF_MEMORY) return NoMemory(bytes);
    if (mapped != CUDA_SUCCESS) return Failed("mapping", mapped);
    CUmemAccessDesc access = {};
    access.location = driver_->prop.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    const CUresult set = driver_->set_access(address_ + offset, bytes, &access, 1);
    if (set != CUDA_SUCCESS) {
      driver_->unmap(address_ + offset, bytes);
      return set == CUDA_ERROR_OUT_OF_MEMORY ? NoMemory(bytes) : Failed("access", set);
    }
    pieces_.push_back({offset, bytes});
    std::fill(mapped_.begin() + begin, mapped_.begin() + end, true);
    return CudaStatus(cudaMemsetAsync(data() + offset, 0, bytes, driver_->stream.get()), "clearing new memory");
  }

  static Status Failed(const char* what, CUresult result) {
    return Internal("CUDA: virtual {}: error {}", what, static_cast<int>(result));
  }

  const CudaAddressSpace::Driver* driver_;
  CUdeviceptr address_;
  size_t bytes_, reserved_bytes_;
  std::vector<bool> mapped_;  // one per page
  std::vector<Piece> pieces_;
};

}  // namespace

CudaAddressSpace::CudaAddressSpace(std::unique_ptr<Driver> driver) : driver_(std::move(driver)) {}
CudaAddressSpace::~CudaAddressSpace() = default;
size_t CudaAddressSpace::granularity() const { return driver_->page_bytes; }

Result<std::unique_ptr<CudaAddressSpace>> CudaAddressSpace::Open(int device, CudaStream stream) {
  auto driver = std::make_unique<Driver>();
  DUO_RETURN_IF_ERROR(Driver::Find("cuMemAddressReserve", &driver->reserve));
  DUO_RETURN_IF_ERROR(Driver::Find("cuMemAddressFree", &driver->free));
  DUO_RETURN_IF_ERROR(Driver::Find("cuMemCreate", &driver->create));
  DUO_RETURN_IF_ERROR(Driver::Find("cuMemRelease", &driver->release));
  DUO_RETURN_IF_ERROR(Driver::Find("cuMemMap", &driver->map));
  DUO_RETURN_IF_ERROR(Driver::Find("cuMemSetAccess", &driver->set_access));
  DUO_RETURN_IF_ERROR(Driver::Find("cuMemUnmap", &driver->unmap));
  DUO_RETURN_IF_ERROR(Driver::Find("cuMemGetAllocationGranularity", &driver->granularity));
  driver->stream = stream;
  driver->prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  driver->prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  driver->prop.location.id = device;
  const CUresult result = driver->granularity(&driver->page_bytes, &driver->prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
  if (result != CUDA_SUCCESS) {
    return Unsupported("this device has no virtual memory management: error {}", static_cast<int>(result));
  }
  return std::unique_ptr<CudaAddressSpace>(new CudaAddressSpace(std::move(driver)));
}

Result<DeviceMemoryPtr> CudaAddressSpace::Reserve(size_t bytes) {
  const size_t reserved = RoundUp(std::max<size_t>(bytes, 1), driver_->page_bytes);
  CUdeviceptr address = 0;
  const CUresult result = driver_->reserve(&address, reserved, 0, 0, 0);
  if (result != CUDA_SUCCESS) {
    return ResourceExhausted("device address space: {} cannot be reserved: error {}", FormatBytes(reserved),
                             static_cast<int>(result));
  }
  return DeviceMemoryPtr(std::make_unique<CudaVirtualMemory>(driver_.get(), address, bytes, reserved));
}

Result<uint8_t*> CudaScratch::Get(size_t bytes) {
  if (memory_ == nullptr || memory_->bytes() < bytes) {
    memory_.reset();
    DUO_ASSIGN_OR_RETURN(memory_, AllocateCudaMemory(bytes, stream_));
    DUO_RETURN_IF_ERROR(CudaStatus(cudaMemsetAsync(memory_->data(), 0, bytes, stream_.get()), "clearing scratch"));
  }
  return memory_->data();
}

}  // namespace duo
