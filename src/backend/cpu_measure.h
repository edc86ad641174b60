// Measuring on the CPU: the times of work, and the speeds of the machine that they are compared with.
#pragma once

#include <optional>

#include "base/clock.h"
#include "duo/backend.h"
#include "duo/result.h"
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

/// Implements Backend::MeasureReadBandwidth and Backend::MeasureGemm.
class CpuCeilings {
 public:
  CpuCeilings(int n_threads, Isa isa) : n_threads_(n_threads), isa_(isa) {}

  Result<double> MeasureReadBandwidth();
  Result<double> MeasureGemm(ComputeType compute) const;

 private:
  int n_threads_;
  Isa isa_;
  std::optional<ReadBandwidth> read_bandwidth_;
};

}  // namespace duo
