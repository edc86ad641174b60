// Measures how long the device works on each kind of work, with events in its stream. Events take time themselves, so
// they are recorded only between Reset and Read.
#pragma once

#include <functional>
#include <vector>

#include "backend/backend.h"
#include "kernels/cuda/stream.h"

struct CUevent_st;

namespace duo {

class CudaTimes {
 public:
  enum Kind : uint8_t { kAttention, kLinear };

  explicit CudaTimes(CudaStream stream);
  ~CudaTimes();
  CudaTimes(const CudaTimes&) = delete;
  CudaTimes& operator=(const CudaTimes&) = delete;

  /// Work that is queued while a Scope lives counts as `kind`.
  class Scope {
   public:
    Scope(CudaTimes* times, Kind kind) : times_(times), index_(times->Begin(kind)) {}
    ~Scope() { times_->End(index_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    CudaTimes* times_;
    size_t index_;
  };

  /// Clears the sums and starts recording.
  void Reset();
  /// Waits for the recorded work, stops recording and returns the sums.
  BackendTimes Read();
  /// Seconds that the device takes for the work that `work` queues.
  Result<double> SecondsOf(const std::function<Status()>& work);

 private:
  struct Span;
  size_t Begin(Kind kind);
  void End(size_t index);
  void Collect();

  CudaStream stream_;
  bool on_ = false;
  std::vector<Span> spans_;
  size_t n_used_ = 0;
  BackendTimes sums_;
};

}  // namespace duo
