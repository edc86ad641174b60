// Measured limits of the machine: memory bandwidth and matrix throughput. Reported speeds are divided by them.
#pragma once

#include <utility>

#include "base/buffer.h"
#include "duo/dtype.h"
#include "duo/result.h"
#include "kernels/cpu/vec/isa.h"

namespace duo {

/// A block of memory far larger than the caches, which all threads read to measure the bandwidth at this moment. On a
/// shared machine the bandwidth changes from second to second, so a speed is compared with passes run next to it.
class ReadBandwidth {
 public:
  /// Allocates 256 MiB, or more where that is larger: 8 times the last-level cache, or 64 MiB per thread. Never more
  /// than 2 GiB. kResourceExhausted when the memory is not available.
  static Result<ReadBandwidth> Create(Isa isa, int n_threads);
  /// Runs one pass of DenseKernels::read_sum (about 10 ms) and returns its GB/s (1e9 bytes).
  double Measure() const;

 private:
  ReadBandwidth(Buffer block, Isa isa, int n_threads) : block_(std::move(block)), isa_(isa), n_threads_(n_threads) {}

  Buffer block_;
  Isa isa_;
  int n_threads_;
};

/// GFLOP/s of oneDNN's matmul alone: [512, 4096] x [4096, 1024] of `type` (kF32, kBF16 or kI8) -> f32, on every thread
/// at the same time, with weights in oneDNN's packed layout. Returns the median of several runs, which take about a
/// second in all. Below kAvx512Bf16, which has no bf16 products, the ceiling for kBF16 is that of kF32, because
/// GemmRunner multiplies floats there. Likewise kI8 below kAvx512Vnni. kInternal when the library refuses,
/// kResourceExhausted when memory runs out.
Result<double> MeasureGemmGflops(Isa isa, DType type, int n_threads);

}  // namespace duo
