#include "backend/cuda_meter.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "backend/cuda_products.h"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

// After this many spans their times are added to the sums, and their events are used again.
constexpr size_t kMaxSpans = 4096;
constexpr size_t kOff = SIZE_MAX;
// Caches do not hold such a copy. A device with less than 16 GiB copies less, so that its memory is left to the model.
constexpr size_t kMaxCopiedBytes = size_t{256} << 20;
constexpr int kCopies = 8;

double Seconds(cudaEvent_t begin, cudaEvent_t end) {
  float ms = 0;
  cudaEventElapsedTime(&ms, begin, end);
  return static_cast<double>(ms) * 1e-3;
}

}  // namespace

struct CudaMeter::Span {
  Kind kind;
  cudaEvent_t begin, end;
};

CudaMeter::CudaMeter(CudaStream stream, CudaMatmul* matmul, size_t device_bytes)
    : stream_(stream), matmul_(matmul), copied_bytes_(std::min(kMaxCopiedBytes, device_bytes / 64)) {}

CudaMeter::~CudaMeter() {
  for (const Span& span : spans_) {
    cudaEventDestroy(span.begin);
    cudaEventDestroy(span.end);
  }
}

size_t CudaMeter::Begin(Kind kind) {
  if (!on_) return kOff;
  if (n_used_ == kMaxSpans) Collect();
  if (n_used_ == spans_.size()) {
    Span span = {};
    if (cudaEventCreate(&span.begin) != cudaSuccess) return kOff;
    if (cudaEventCreate(&span.end) != cudaSuccess) {
      cudaEventDestroy(span.begin);
      return kOff;
    }
    spans_.push_back(span);
  }
  Span& span = spans_[n_used_];
  span.kind = kind;
  cudaEventRecord(span.begin, stream_.get());
  return n_used_++;
}

void CudaMeter::End(size_t index) {
  if (index != kOff) cudaEventRecord(spans_[index].end, stream_.get());
}

void CudaMeter::Collect() {
  if (n_used_ > 0) cudaEventSynchronize(spans_[n_used_ - 1].end);
  for (size_t i = 0; i < n_used_; ++i) {
    (spans_[i].kind == kAttention ? sums_.attention_s : sums_.linear_s) += Seconds(spans_[i].begin, spans_[i].end);
  }
  n_used_ = 0;
}

void CudaMeter::ResetTimes() {
  on_ = true;
  n_used_ = 0;
  sums_ = {};
}

BackendTimes CudaMeter::Times() {
  Collect();
  on_ = false;
  return sums_;
}

Result<double> CudaMeter::SecondsOf(const std::function<Status()>& work) {
  cudaEvent_t begin = nullptr, end = nullptr;
  DUO_RETURN_IF_ERROR(CudaStatus(cudaEventCreate(&begin), "an event"));
  Status status = CudaStatus(cudaEventCreate(&end), "an event");
  if (status.ok()) status = CudaStatus(cudaEventRecord(begin, stream_.get()), "an event");
  if (status.ok()) status = work();
  if (status.ok()) status = CudaStatus(cudaEventRecord(end, stream_.get()), "an event");
  if (status.ok()) status = CudaStatus(cudaEventSynchronize(end), "work on the device");
  const double seconds = status.ok() ? Seconds(begin, end) : 0;
  cudaEventDestroy(begin);
  if (end != nullptr) cudaEventDestroy(end);
  if (!status.ok()) return status;
  return seconds;
}

Result<double> CudaMeter::MeasureReadBandwidth() {
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, copied_.Get(2 * copied_bytes_));
  const auto copy = [&]() -> Status {
    for (int i = 0; i < kCopies; ++i) {
      DUO_RETURN_IF_ERROR(CudaStatus(
          cudaMemcpyAsync(memory + copied_bytes_, memory, copied_bytes_, cudaMemcpyDeviceToDevice, stream_.get()),
          "copying"));
    }
    return OkStatus();
  };
  DUO_RETURN_IF_ERROR(copy());
  DUO_ASSIGN_OR_RETURN(const double seconds, SecondsOf(copy));
  return 2.0 * kCopies * static_cast<double>(copied_bytes_) / seconds * 1e-9;
}

Result<double> CudaMeter::MeasureGemm(ComputeType compute) {
  const int64_t size = CudaMatmul::FullSpeedSize(), n = size * size;
  DUO_ASSIGN_OR_RETURN(const DeviceMemoryPtr memory, AllocateCudaMemory(3 * n * sizeof(float), stream_));
  DUO_RETURN_IF_ERROR(CudaStatus(cudaMemsetAsync(memory->data(), 0, memory->bytes(), stream_.get()), "clearing"));
  auto* floats = reinterpret_cast<float*>(memory->data());
  const CudaProduct product{.type = compute,
                            .x = floats,
                            .w = floats + n,
                            .n_tokens = size,
                            .n_in = size,
                            .n_out = size,
                            .out = floats + 2 * n,
                            .out_stride = size,
                            .accumulate = false};
  DUO_RETURN_IF_ERROR(matmul_->Run(product));
  DUO_ASSIGN_OR_RETURN(const double seconds, SecondsOf([&] { return matmul_->Run(product); }));
  return 2.0 * static_cast<double>(n) * static_cast<double>(size) / seconds * 1e-9;
}

}  // namespace duo
