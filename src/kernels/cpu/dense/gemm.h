// Dense matrix products through oneDNN, for prefill. Only gemm.cc and ceilings.cc use the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "duo/dtype.h"
#include "duo/result.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {

/// How a product's weights lie in memory, row-major.
enum class WeightLayout : uint8_t {
  kOutIn,  // [n_out, n_in]: a linear layer of a checkpoint, forward
  kInOut,  // [n_in, n_out]: the same matrix in the gradient of its input, where inputs and outputs are exchanged
};

/// out[t][o] = (accumulate ? out[t][o] : 0) + bias[o] + sum_i x[t][i] w[o][i]   (w[i][o] for kInOut)
struct Gemm {
  const void* x = nullptr;  // [n_tokens, n_in] x_type (kF32, kBF16 or kI8), row-major
  // kBF16 products are bf16 x bf16 -> f32, kF32 products are of floats, kI8 products are int8 x int8 -> s32.
  DType x_type = DType::kBF16;
  const float* x_scale = nullptr;  // [n_tokens], kI8 only: an input is scale * number
  int64_t n_tokens = 0;
  int64_t n_in = 0;
  const void* w = nullptr;         // w_layout, w_type; kU8 means int4 blocks (weight_codes.h)
  DType w_type = DType::kBF16;     // if it differs from x_type, each task first converts its block into a small scratch
  const float* w_scale = nullptr;  // [n_out], kI8 only: a weight is scale * number
  WeightLayout w_layout = WeightLayout::kOutIn;
  int64_t n_out = 0;
  const float* bias = nullptr;  // [n_out] or null
  float* out = nullptr;         // token t: out + t * out_stride
  int64_t out_stride = 0;       // floats, >= n_out
  bool accumulate = false;
};

enum class Transpose : uint8_t { kNo, kYes };

/// c = alpha op(a) op(b) + beta c on floats, row-major: op(a) [m, k], op(b) [k, n], c [m, n]. Uses only the calling
/// thread, because it serves loops that are already parallel.
struct BlockGemm {
  const float* a = nullptr;  // [m, k], or [k, m] when transposed
  int64_t a_stride = 0;      // floats between rows as they lie in memory; b_stride and c_stride too
  Transpose a_op = Transpose::kNo;
  const float* b = nullptr;  // [k, n], or [n, k] when transposed
  int64_t b_stride = 0;
  Transpose b_op = Transpose::kNo;
  int64_t m = 0, n = 0, k = 0;
  float alpha = 1.0f;
  float beta = 0.0f;
  float* c = nullptr;
  int64_t c_stride = 0;
};
void RunBlockGemm(const BlockGemm& g);

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
