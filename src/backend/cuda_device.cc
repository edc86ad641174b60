#include "backend/cuda_device.h"

#include <cuda_runtime.h>
#include <fmt/core.h>

#include "base/error.h"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

// Compute capability 8 brought tensor cores with bf16 and asynchronous copies to shared memory.
constexpr int kMinMajor = 8;

std::string VersionText(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

Status NoDevice(const std::string& why) { return Unsupported("{}; the CPU backend needs no GPU", why).About("device"); }

}  // namespace

Result<std::unique_ptr<CudaDevice>> CudaDevice::Open() {
  int driver = 0, runtime = 0, n_devices = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const cudaError_t counted = cudaGetDeviceCount(&n_devices);
  if (driver == 0) {
    return NoDevice("this machine has no NVIDIA driver");
  }
  if (counted == cudaErrorInsufficientDriver) {
    return NoDevice(fmt::format("the driver is for CUDA {}, this build needs {}; install a newer driver",
                                VersionText(driver), VersionText(runtime)));
  }
  if (counted == cudaErrorNoDevice || (counted == cudaSuccess && n_devices == 0)) {
    return NoDevice("this machine has no NVIDIA GPU that can be used");
  }
  DUO_RETURN_IF_ERROR(CudaStatus(counted, "looking for devices"));
  DUO_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(0), "device 0"));
  cudaDeviceProp prop;
  DUO_RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&prop, 0), "device 0"));
  int major = 0, minor = 0;
  std::unique_ptr<CudaDevice> device(new CudaDevice);
  device->name_ = prop.name;
  device->memory_bytes_ = prop.totalGlobalMem;
  const auto ask = [](int* value, cudaDeviceAttr attribute) {
    return CudaStatus(cudaDeviceGetAttribute(value, attribute, 0), "attributes of device 0");
  };
  DUO_RETURN_IF_ERROR(ask(&major, cudaDevAttrComputeCapabilityMajor));
  DUO_RETURN_IF_ERROR(ask(&minor, cudaDevAttrComputeCapabilityMinor));
  DUO_RETURN_IF_ERROR(ask(&device->n_processors_, cudaDevAttrMultiProcessorCount));
  if (major < kMinMajor) {
    return NoDevice(
        fmt::format("{} has compute capability {}.{}, at least 8.0 (Ampere) is needed", device->name_, major, minor));
  }
  DUO_RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&device->stream_, cudaStreamNonBlocking), "a stream"));
  device->graphs_ = std::make_unique<CudaGraphs>(device->stream_);
  return device;
}

CudaDevice::~CudaDevice() {
  graphs_.reset();
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

}  // namespace duo
