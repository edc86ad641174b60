// Gradients on the CPU: kernels/dense_backward.h and kernels/attention_backward.h on OpenMP threads, GEMM from oneDNN.
// Every sum has a fixed order, so a run is bit for bit the same whatever the timing of the threads.
#pragma once

#include "backend/cpu_memory.h"
#include "backend/identify_ops.h"
#include "kernels/cpu/dense/gemm.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {

class CpuIdentifyOps : public IdentifyOps {
 public:
  CpuIdentifyOps(int n_threads, Isa isa)
      : n_threads_(n_threads), isa_(isa), dense_(DenseKernelsFor(isa)), gemm_(n_threads, isa) {}

  uint64_t MaxScratchBytes(const GradientBounds& bounds) const override;
  uint64_t KeyWeightScratchBytes(int64_t n_tokens, int64_t n_keys, int n_heads, int head_dim) const override;
  Status Linear(ComputeType compute, int64_t n_tokens, std::span<const LinearGradient> tasks, float* dx) override;
  void RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* dy) override;
  void SwiGlu(const float* dh, float* gate, float* up, int64_t n) override;
  Status Attention(const AttentionGradient& a) override;
  void Add(float* x, const float* y, int64_t n) override;
  void Mix(const HeadMix& mix, float* out) override;
  void MixGradient(const HeadMix& mix, float* d_out, std::span<double> host_gate_gradients) override;
  Status LargestKeyWeights(const KeyWeightTask& task, std::span<double> host_largest) override;

 private:
  int n_threads_;
  Isa isa_;
  const DenseKernels& dense_;
  GemmRunner gemm_;
  Scratch scratch_;  // dy in bf16, or the attention blocks of all threads
};

}  // namespace duo
