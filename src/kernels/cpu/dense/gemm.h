// Matrix products of many tokens (Gemm of kernels/dense.h) on all threads, through oneDNN. Only gemm.cc, block_gemm.cc
// and ceilings.cc use the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "duo/dtype.h"
#include "duo/result.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/dense.h"

namespace duo {

/// Caches oneDNN primitives by shape. Not thread safe; one per backend.
///
/// A product is cut into blocks of tokens and outputs. Each block is a task of ParallelFor that the library computes on
/// one thread. The library's own threads would be a second team that waits at barriers, and under limits on OpenMP's
/// threads they compute garbage (base/parallel.h).
///
/// Measured on two Zen 4 cores, weights [4096, 4096], 512 / 64 / 16 tokens, in GFLOP/s. Where nothing is converted
/// (bf16) this gives 428 / 356 / 230, and the library's own two threads give 427 / 345 / 212. Where weights are
/// converted (f32 by bf16) this gives 215 / 184 / 120, and the library's own threads give 161 / 58 / 20.
///
/// Weights are read in the checkpoint's layout, which needs no second copy. Measured on one Zen 5 core with bf16, 512
/// tokens, n_in 4096 and n_out 4096 / 14336: 430 / 428 GFLOP/s. Weights packed for oneDNN beforehand give 453 / 460, so
/// this is 94 % of that.
///
/// Below Isa::kAvx512Bf16 the CPU has no useful bf16 products, so x and w are widened block by block and multiplied as
/// floats. The products are the same, because the product of two bf16 numbers is an exact float. Only the order of the
/// sum differs. oneDNN itself still chooses the widest instructions of the CPU, because its limit is global to the
/// process. The environment variable ONEDNN_MAX_CPU_ISA sets that limit.
class GemmRunner {
 public:
  explicit GemmRunner(int n_threads, Isa isa);
  ~GemmRunner();
  GemmRunner(const GemmRunner&) = delete;
  GemmRunner& operator=(const GemmRunner&) = delete;

  /// Weights of kI8 and kU8 must have layout kOutIn. Activations of kI8 need weights of kI8 and at least
  /// Isa::kAvx512Vnni. Below that level the library's own int8 products saturate. kResourceExhausted when memory for
  /// scratch is not available, kInternal when the library refuses.
  Status Run(const Gemm& gemm);

  /// Scratch that Run may hold for operands of these types and up to widest_input inputs, for the memory plan. It is an
  /// upper bound of this class's own scratch, plus four times the scratch that oneDNN was seen to use.
  static size_t MaxScratchBytes(Isa isa, int n_threads, int64_t widest_input, DType x_type, DType w_type,
                                WeightLayout layout);
  /// Scratch held now.
  size_t scratch_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace duo
