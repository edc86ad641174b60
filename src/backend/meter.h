// Measures a backend for `duo bench`: the time of its work, and the device's own speed that it is compared with.
#pragma once

#include "duo/backend.h"
#include "duo/result.h"

namespace duo {

/// Seconds spent per kind of work.
struct BackendTimes {
  double attention_s = 0;
  double linear_s = 0;
};

class Meter {
 public:
  virtual ~Meter() = default;

  /// Starts to count the times of the backend's work, from zero.
  virtual void ResetTimes() = 0;
  /// Times of the work between ResetTimes() and the first call of this after it.
  virtual BackendTimes Times() = 0;
  /// Whether counting times does not slow the work down.
  virtual bool TimesAreFree() const = 0;
  /// Current read bandwidth, in GB/s, of the memory that holds weights and caches. Makes one pass of some milliseconds
  /// over a block of hundreds of MiB. The first call allocates the block, and the meter keeps it. kResourceExhausted.
  virtual Result<double> MeasureReadBandwidth() = 0;
  /// GFLOP/s of a large matrix product on its own. kResourceExhausted, kInternal.
  virtual Result<double> MeasureGemm(ComputeType compute) = 0;
};

}  // namespace duo
