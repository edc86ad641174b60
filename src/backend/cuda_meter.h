// Measures the device: how long it works on each kind of work, and its speed. Times are taken with events in the
// stream. Events take time themselves, so they are recorded only between ResetTimes and Times.
#pragma once

#include <functional>
#include <vector>

#include "backend/cuda_memory.h"
#include "backend/meter.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/stream.h"

namespace duo {

class CudaMeter : public Meter {
 public:
  enum Kind : uint8_t { kAttention, kLinear };

  /// `matmul` must use the same stream. device_bytes: memory of the whole device.
  CudaMeter(CudaStream stream, CudaMatmul* matmul, size_t device_bytes);
  ~CudaMeter() override;
  CudaMeter(const CudaMeter&) = delete;
  CudaMeter& operator=(const CudaMeter&) = delete;

  /// Work that is queued while a Scope lives counts as `kind`.
  class Scope {
   public:
    Scope(CudaMeter* meter, Kind kind) : meter_(meter), index_(meter->Begin(kind)) {}
    ~Scope() { meter_->End(index_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    CudaMeter* meter_;
    size_t index_;
  };

  void ResetTimes() override;
  /// Waits for the recorded work, and stops recording.
  BackendTimes Times() override;
  bool TimesAreFree() const override { return false; }
  Result<double> MeasureReadBandwidth() override;
  Result<double> MeasureGemm(ComputeType compute) override;

 private:
  struct Span;
  size_t Begin(Kind kind);
  void End(size_t index);
  void Collect();
  /// Seconds that the device takes for the work that `work` queues.
  Result<double> SecondsOf(const std::function<Status()>& work);

  CudaStream stream_;
  CudaMatmul* matmul_;
  size_t copied_bytes_;  // of one copy in MeasureReadBandwidth
  CudaScratch copied_{stream_};
  bool on_ = false;
  std::vector<Span> spans_;
  size_t n_used_ = 0;
  BackendTimes sums_;
};

}  // namespace duo
