// Measuring on the CPU: the times of work, and the speeds of the machine that they are compared with.
#pragma once

#include <optional>

#include "backend/meter.h"
#include "base/clock.h"
#include "kernels/cpu/dense/ceilings.h"
#include "kernels/cpu/vec/isa.h"

namespace duo {

/// Adds the time between construction and destruction to `*total`.
class ScopedTime {
 public:
  explicit ScopedTime(double* total) : total_(total), begin_(Clock::now()) {}
  ~ScopedTime() { *total_ += SecondsSince(begin_); }
  ScopedTime(const ScopedTime&) = delete;
  ScopedTime& operator=(const ScopedTime&) = delete;

 private:
  double* total_;
  Clock::time_point begin_;
};

class CpuMeter : public Meter {
 public:
  CpuMeter(int n_threads, Isa isa) : n_threads_(n_threads), isa_(isa) {}

  /// The counted times. ScopedTime adds to them.
  BackendTimes* sums() { return &sums_; }

  void ResetTimes() override { sums_ = {}; }
  BackendTimes Times() override { return sums_; }
  bool TimesAreFree() const override { return true; }
  Result<double> MeasureReadBandwidth() override;
  Result<double> MeasureGemm(ComputeType compute) override;

 private:
  int n_threads_;
  Isa isa_;
  BackendTimes sums_;
  std::optional<ReadBandwidth> read_bandwidth_;
};

}  // namespace duo
