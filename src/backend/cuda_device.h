// Finds, checks and describes the GPU that work is queued on.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "duo/result.h"
#include "kernels/cuda/stream.h"

namespace duo {

/// Device 0, with its own stream.
class CudaDevice {
 public:
  /// kUnsupported: there is no device, its compute capability is below 8.0, or the driver is older than this build's
  /// toolkit.
  static Result<std::unique_ptr<CudaDevice>> Open();
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  CudaStream stream() const { return {stream_, graphs_.get()}; }
  CudaGraphs* graphs() const { return graphs_.get(); }
  int n_processors() const { return n_processors_; }
  size_t memory_bytes() const { return memory_bytes_; }
  const std::string& name() const { return name_; }

 private:
  CudaDevice() = default;

  CUstream_st* stream_ = nullptr;
  std::unique_ptr<CudaGraphs> graphs_;  // launches held back for stream_
  int n_processors_ = 0;
  size_t memory_bytes_ = 0;
  std::string name_;
};

}  // namespace duo
