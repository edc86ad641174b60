// IdentifyOps of the CUDA backend.
#pragma once

#include <cstdint>
#include <span>

#include "backend/cuda_kept_status.h"
#include "backend/cuda_memory.h"
#include "backend/identify_ops.h"
#include "kernels/cuda/matmul.h"

namespace duo {

/// Operations that return void put their error into *kept.
class CudaIdentifyOps : public IdentifyOps {
 public:
  CudaIdentifyOps(CudaStream stream, CudaMatmul* matmul, CudaKeptStatus* kept)
      : stream_(stream), matmul_(matmul), kept_(kept) {}

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
  template <class T>
  Status LinearOf(ComputeType type, int64_t n_tokens, std::span<const LinearGradient> tasks, float* dx);
  Status MixBackward(const HeadMix& mix, float* d_out, std::span<double> host_gate_gradients);
  Result<struct CudaHeadMix> Upload(const HeadMix& mix);
  void Keep(const Status& status) { kept_->Keep(status); }

  CudaStream stream_;
  CudaMatmul* matmul_;
  CudaKeptStatus* kept_;
  CudaScratch gates_{stream_};
  CudaScratch rounded_{stream_};  // dy in bf16; keys as floats
  CudaScratch panel_{stream_};    // weights in the product's type
  CudaScratch blocks_{stream_};   // scores of a block of queries and their gradient; partial sums
};

}  // namespace duo
