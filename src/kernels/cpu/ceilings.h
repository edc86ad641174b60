// What the machine can give, measured: the denominators of every speed that is reported.
#pragma once

#include "duo/dtype.h"
#include "duo/result.h"
#include "kernels/cpu/isa.h"

namespace duo {

/// GB/s (1e9 bytes) at which n_threads threads read a block with DenseKernels::read_sum: 512 MiB, or more where the
/// caches are large (8 times the last one, 64 MiB per thread), at most 2 GiB. Best of several passes: the ceiling, not
/// the average. Takes under a second on an idle machine; the block adds to the process' peak memory, so read that
/// first. kResourceExhausted when the memory cannot be had.
Result<double> MeasureReadBandwidth(Isa isa, int n_threads);

/// GFLOP/s of oneDNN's matmul alone, [512, 4096] x [4096, 4096] of `type` (kF32 or kBF16) -> f32 with weights that were
/// packed as oneDNN likes them. Median of several runs, about a second in all. Where `isa` has no bf16 products
/// (below kAvx512Bf16) the ceiling for kBF16 is that of kF32, which is what GemmRunner runs there.
/// kInternal when the library refuses, kResourceExhausted without memory.
Result<double> MeasureGemmGflops(Isa isa, DType type, int n_threads);

}  // namespace duo
