// Dense matrix products through oneDNN, for prefill. Only this file and ceilings.cc know the library.
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
  kInOut,  // [n_in, n_out]: the same matrix in the gradient of its input, where what came out goes in
};

/// out[t][o] = (accumulate ? out[t][o] : 0) + bias[o] + sum_i x[t][i] w[o][i]   (w[i][o] for kInOut)
struct Gemm {
  const void* x = nullptr;  // [n_tokens, n_in] x_type (kF32, kBF16 or kI8), row-major
  DType x_type =
      DType::kBF16;  // products are bf16 x bf16 -> f32 when kBF16, float when kF32, int8 x int8 -> s32 when kI8
  const float* x_scale = nullptr;  // [n_tokens] of kI8: an input is scale * number
  int64_t n_tokens = 0;
  int64_t n_in = 0;
  const void* w = nullptr;         // w_layout, w_type; of kU8 int4 blocks (weight_codes.h)
  DType w_type = DType::kBF16;     // when it is not x_type, each task converts its block into a small scratch first
  const float* w_scale = nullptr;  // [n_out] of kI8: a weight is scale * number
  WeightLayout w_layout = WeightLayout::kOutIn;
  int64_t n_out = 0;
  const float* bias = nullptr;  // [n_out] or null
  float* out = nullptr;         // token t: out + t * out_stride
  int64_t out_stride = 0;       // floats, >= n_out
  bool accumulate = false;
};

enum class Transpose : uint8_t { kNo, kYes };

/// c = alpha op(a) op(b) + beta c on floats, row-major: op(a) [m, k], op(b) [k, n], c [m, n]. For blocks inside a loop
/// that is parallel already: uses the calling thread alone.
struct BlockGemm {
  const float* a = nullptr;  // [m, k], or [k, m] when transposed
  int64_t a_stride = 0;      // floats between rows as they lie in memory; likewise below
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
/// A product is cut into blocks of tokens and outputs, and each is a task of ParallelFor that the library computes on
/// one thread. The library's own threads would be a second team that waits at barriers, and under limits on OpenMP's
/// threads they compute garbage (base/parallel.h). On two Zen 4 cores this is as fast as the library's own two threads
/// where nothing is converted (bf16, [4096, 4096], 512 / 64 / 16 tokens: 428 / 356 / 230 against 427 / 345 / 212
/// GFLOP/s), and faster where weights are (f32 by bf16: 215 / 184 / 120 against 161 / 58 / 20).
///
/// Weights are read in the checkpoint's layout. Measured on one Zen 5 core, bf16, 512 tokens, n_in 4096, n_out 4096 /
/// 14336: 430 / 428 GFLOP/s, against 453 / 460 with weights packed for oneDNN beforehand: 94 %, and no second copy.
///
/// Below Isa::kAvx512Bf16 the CPU has no bf16 products that are worth their name: x and w are widened block by block
/// and multiplied as floats. The products are the same, since that of two bf16 numbers is an exact float; only the
/// order of the sum differs. oneDNN itself keeps choosing the widest instructions the CPU has, because its own limit
/// is global to the process; ONEDNN_MAX_CPU_ISA in the environment sets it.
class GemmRunner {
 public:
  explicit GemmRunner(int n_threads, Isa isa);
  ~GemmRunner();
  GemmRunner(const GemmRunner&) = delete;
  GemmRunner& operator=(const GemmRunner&) = delete;

  /// Weights of kI8 and kU8 lie kOutIn; activations of kI8 go with weights of kI8, from Isa::kAvx512Vnni on (below, the
  /// library's own int8 products saturate). kResourceExhausted when scratch cannot be had, kInternal when the library
  /// refuses.
  Status Run(const Gemm& gemm);

  /// Scratch that Run may hold for operands of these types and up to widest_input inputs, for the memory plan: a bound
  /// for this class's own, four times what was seen for oneDNN's.
  static size_t MaxScratchBytes(Isa isa, int n_threads, int64_t widest_input, DType x_type, DType w_type,
                                WeightLayout layout);
  /// Scratch held now.
  size_t scratch_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace duo
