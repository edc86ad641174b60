#include "backend/cuda_times.h"

#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"

namespace duo {
namespace {

// After this many spans their times are added to the sums, and their events are used again.
constexpr size_t kMaxSpans = 4096;
constexpr size_t kOff = SIZE_MAX;

double Seconds(cudaEvent_t begin, cudaEvent_t end) {
  float ms = 0;
  cudaEventElapsedTime(&ms, begin, end);
  return static_cast<double>(ms) * 1e-3;
}

}  // namespace

struct CudaTimes::Span {
  Kind kind;
  cudaEvent_t begin, end;
};

CudaTimes::CudaTimes(CudaStream stream) : stream_(stream) {}

CudaTimes::~CudaTimes() {
  for (const Span& span : spans_) {
    cudaEventDestroy(span.begin);
    cudaEventDestroy(span.end);
  }
}

size_t CudaTimes::Begin(Kind kind) {
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

void CudaTimes::End(size_t index) {
  if (index != kOff) cudaEventRecord(spans_[index].end, stream_.get());
}

void CudaTimes::Collect() {
  if (n_used_ > 0) cudaEventSynchronize(spans_[n_used_ - 1].end);
  for (size_t i = 0; i < n_used_; ++i) {
    (spans_[i].kind == kAttention ? sums_.attention_s : sums_.linear_s) += Seconds(spans_[i].begin, spans_[i].end);
  }
  n_used_ = 0;
}

void CudaTimes::Reset() {
  on_ = true;
  n_used_ = 0;
  sums_ = {};
}

BackendTimes CudaTimes::Read() {
  Collect();
  on_ = false;
  return sums_;
}

Result<double> CudaTimes::SecondsOf(const std::function<Status()>& work) {
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

}  // namespace duo
