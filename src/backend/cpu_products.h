// Linear of the CPU backend. It chooses between our kernels and the products of the library.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "backend/cpu_memory.h"
#include "kernels/cpu/dense/gemm.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {

/// The input of a product, after any norm or SwiGLU: x [n_tokens, n_in].
struct TokenRows {
  const float* x = nullptr;
  int64_t n_tokens = 1;
  int64_t n_in = 0;
};

class CpuProducts {
 public:
  CpuProducts(int n_threads, Isa isa)
      : n_threads_(n_threads), isa_(isa), dense_(DenseKernelsFor(isa)), gemm_(n_threads, isa) {}

  /// Implements Backend::Linear for an input that is computed already.
  Status Linear(ComputeType compute, const TokenRows& input, std::span<const LinearTask> tasks);
  /// Upper bound of the scratch held for calls within these bounds.
  uint64_t MaxScratchBytes(const CallBounds& bounds) const;

 private:
  /// An input as the library multiplies it. Valid until the next call that rounds.
  struct LibraryInput {
    const void* values = nullptr;  // [n_tokens, n_in]
    DType type = DType::kF32;
    const float* scale = nullptr;  // [n_tokens], kI8 only
  };

  Status LinearFewTokens(ComputeType compute, const TokenRows& input, std::span<const LinearTask> tasks);
  Status LinearManyTokens(ComputeType compute, const TokenRows& input, std::span<const LinearTask> tasks);
  Result<LibraryInput> RoundForLibrary(ComputeType compute, const TokenRows& input);
  Result<LibraryInput> RoundToBf16(const TokenRows& input);
  Result<LibraryInput> RoundToInt8(const TokenRows& input);
  /// Returns the input rounded for the compute type, as floats. Valid until the next call that rounds.
  Result<const float*> RoundedFloats(ComputeType compute, const TokenRows& input);
  /// Rounds the input to int8 with one scale per token, returned as floats (value * scale).
  Result<const float*> OnInt8Grid(const TokenRows& input);
  /// Converts the input to the layout that a product with quantised weights needs. Tokens are `token_bytes` apart.
  Result<const uint8_t*> Convert(void (*convert)(const float*, int64_t, void*), const TokenRows& input,
                                 size_t token_bytes);

  int n_threads_;
  Isa isa_;
  const DenseKernels& dense_;
  GemmRunner gemm_;
  Scratch rounded_;    // the input in bf16 or int8, or floats that hold such values
  Scratch converted_;  // the input of a product of few tokens with int4 or int8 weights
};

}  // namespace duo
