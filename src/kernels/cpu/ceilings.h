// What the machine can give, measured: the denominators of every speed that is reported.
#pragma once

#include <utility>

#include "base/buffer.h"
#include "duo/dtype.h"
#include "duo/result.h"
#include "kernels/cpu/isa.h"

namespace duo {

/// Memory far larger than the caches, read by all threads whenever somebody wants to know what the machine gives now:
/// on a shared one that moves from second to second, so a speed is compared with passes beside it.
class ReadBandwidth {
 public:
  /// A block of 256 MiB, or more where the caches are large (8 times the last one, 64 MiB per thread), at most 2 GiB.
  /// kResourceExhausted when the memory cannot be had.
  static Result<ReadBandwidth> Create(Isa isa, int n_threads);
  /// GB/s (1e9 bytes) of one pass with DenseKernels::read_sum, some 10 ms.
  double Measure() const;

 private:
  ReadBandwidth(Buffer block, Isa isa, int n_threads) : block_(std::move(block)), isa_(isa), n_threads_(n_threads) {}

  Buffer block_;
  Isa isa_;
  int n_threads_;
};

/// GFLOP/s of oneDNN's matmul alone, [512, 4096] x [4096, 1024] of `type` (kF32, kBF16 or kI8) -> f32 on every thread
/// at the same time, with weights that were packed as oneDNN likes them. The median of several runs, about a second in
/// all. Where `isa` has no bf16 products (below kAvx512Bf16) the ceiling for kBF16 is that of kF32, which GemmRunner
/// runs there. kInternal when the library refuses, kResourceExhausted without memory.
Result<double> MeasureGemmGflops(Isa isa, DType type, int n_threads);

}  // namespace duo
