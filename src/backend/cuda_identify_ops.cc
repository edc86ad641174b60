#include "backend/cuda_identify_ops.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cuda_attention_gradient.h"
#include "base/align.h"
#include "kernels/cuda/backward.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

constexpr int64_t kBlockTokens = 512;                // max queries in a block of scores
constexpr int64_t kScoreFloats = int64_t{16} << 20;  // max scores in a block, if it has more than one query

}  // namespace

uint64_t CudaIdentifyOps::MaxScratchBytes(const GradientBounds& b) const {
  const bool floats = b.compute == ComputeType::kF32;
  const uint64_t rounded = floats ? 0 : b.n_tokens * b.widest_output * sizeof(uint16_t);
  const bool same = b.weights == (floats ? DType::kF32 : DType::kBF16);
  const uint64_t row_bytes = b.widest_output * (floats ? 4 : 2);
  const uint64_t panel = same ? 0 : std::max<uint64_t>(kCudaPanelBytes, kInt4Rows * row_bytes);
  const uint64_t blocks = CudaAttentionGradientBytes(b.n_tokens, b.mask);
  const uint64_t parts = CudaMixBlocks(b.n_tokens) * sizeof(double) * 1024;
  return rounded + panel + std::max(blocks, parts) + 4096;
}

Status CudaIdentifyOps::Linear(ComputeType compute, int64_t n_tokens, std::span<const LinearGradient> tasks,
                               float* dx) {
  DUO_RETURN_IF_ERROR(kept_->Take());
  if (compute == ComputeType::kF32) return LinearOf<float>(ComputeType::kF32, n_tokens, tasks, dx);
  return LinearOf<uint16_t>(ComputeType::kBF16, n_tokens, tasks, dx);
}

// A weight that has another type than the product is widened, some rows at a time. The rows are outputs, and dx is a
// sum over the outputs.
template <class T>
Status CudaIdentifyOps::LinearOf(ComputeType type, int64_t n_tokens, std::span<const LinearGradient> tasks, float* dx) {
  constexpr DType kSame = sizeof(T) == sizeof(float) ? DType::kF32 : DType::kBF16;
  bool first = true;
  for (const LinearGradient& task : tasks) {
    const MatrixView& w = task.weight;
    const void* dy = task.dy;
    if constexpr (kSame == DType::kBF16) {
      const int64_t n = n_tokens * w.n_out;
      DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(n * sizeof(T)));
      DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, {.x = task.dy, .n_rows = n_tokens, .dim = w.n_out},
                                       {.rounded = reinterpret_cast<uint16_t*>(memory)}));
      dy = memory;
    }
    const size_t row_bytes = w.n_in * sizeof(T);
    const int64_t step = w.dtype == kSame ? w.n_out : CudaPanelRows(row_bytes);
    for (int64_t row = 0; row < w.n_out; row += step) {
      const int64_t n = std::min(step, w.n_out - row);
      const void* rows = w.data;
      if (w.dtype != kSame) {
        DUO_ASSIGN_OR_RETURN(uint8_t * panel, panel_.Get(n * row_bytes));
        DUO_RETURN_IF_ERROR(CudaWidenRows(stream_, w, row, row + n, reinterpret_cast<T*>(panel)));
        rows = panel;
      }
      DUO_RETURN_IF_ERROR(matmul_->Run({.type = type,
                                        .x = static_cast<const T*>(dy) + row,
                                        .x_stride = w.n_out,
                                        .w = rows,
                                        .w_stride = w.n_in,
                                        .w_transposed = true,
                                        .n_tokens = n_tokens,
                                        .n_in = n,
                                        .n_out = w.n_in,
                                        .out = dx,
                                        .accumulate = !first}));
      first = false;
    }
  }
  return OkStatus();
}

void CudaIdentifyOps::RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* dy) {
  Keep(CudaRmsNormBackward(stream_, x, weight, eps, n_rows, dim, dy));
}

void CudaIdentifyOps::SwiGlu(const float* dh, float* gate, float* up, int64_t n) {
  Keep(CudaSwiGluBackward(stream_, dh, gate, up, n));
}

void CudaIdentifyOps::Add(float* x, const float* y, int64_t n) { Keep(CudaAdd(stream_, x, y, n)); }

Status CudaIdentifyOps::Attention(const AttentionGradient& a) {
  DUO_RETURN_IF_ERROR(kept_->Take());
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, blocks_.Get(CudaAttentionGradientBytes(a.n_tokens, a.mask)));
  return RunCudaAttentionGradient(stream_, matmul_, a, reinterpret_cast<float*>(memory));
}

Result<CudaHeadMix> CudaIdentifyOps::Upload(const HeadMix& mix) {
  std::vector<float> gates(mix.host_gates.begin(), mix.host_gates.end());
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, gates_.Get(gates.size() * sizeof(float)));
  DUO_RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(memory, gates.data(), gates.size() * sizeof(float), cudaMemcpyHostToDevice, stream_.get()),
      "gates"));
  return CudaHeadMix{.full = mix.full,
                     .streaming = mix.streaming,
                     .gates = reinterpret_cast<const float*>(memory),
                     .n_tokens = mix.n_tokens,
                     .n_kv_heads = mix.n_kv_heads,
                     .width = mix.width};
}

void CudaIdentifyOps::Mix(const HeadMix& mix, float* out) {
  const Result<CudaHeadMix> there = Upload(mix);
  Keep(there.ok() ? CudaMix(stream_, *there, out) : there.status());
}

void CudaIdentifyOps::MixGradient(const HeadMix& mix, float* d_out, std::span<double> host_gate_gradients) {
  Keep(MixBackward(mix, d_out, host_gate_gradients));
}

Status CudaIdentifyOps::MixBackward(const HeadMix& mix, float* d_out, std::span<double> host_gate_gradients) {
  DUO_ASSIGN_OR_RETURN(const CudaHeadMix there, Upload(mix));
  std::vector<double> parts(CudaMixBlocks(mix.n_tokens) * mix.n_kv_heads);
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, blocks_.Get(parts.size() * sizeof(double)));
  DUO_RETURN_IF_ERROR(CudaMixBackward(stream_, there, d_out, reinterpret_cast<double*>(memory)));
  DUO_RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(parts.data(), memory, parts.size() * sizeof(double), cudaMemcpyDeviceToHost, stream_.get()),
      "sums"));
  DUO_RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream_.get()), "gradient of the mix"));
  for (size_t i = 0; i < parts.size(); ++i) host_gate_gradients[i % host_gate_gradients.size()] += parts[i];
  return OkStatus();
}

namespace {

/// The block of scores [rows, n_keys] at the beginning of LargestKeyWeights' scratch.
struct ScoreBlock {
  ScoreBlock(int64_t n_tokens, int64_t n_keys)
      : rows(std::min(n_tokens, std::clamp(kScoreFloats / n_keys, int64_t{1}, kBlockTokens))),
        bytes(RoundUp(rows * n_keys * sizeof(float), 256)) {}
  int64_t rows;
  size_t bytes;
};

}  // namespace

uint64_t CudaIdentifyOps::KeyWeightScratchBytes(int64_t n_tokens, int64_t n_keys, int n_heads, int head_dim) const {
  const uint64_t floats = n_heads * n_tokens + n_keys * head_dim;
  // A call with fewer than n_keys keys may use a larger block, because it has more rows.
  const uint64_t scores =
      std::max(ScoreBlock(n_tokens, n_keys).bytes, std::min(n_tokens * n_keys, kScoreFloats) * sizeof(float));
  return scores + floats * sizeof(float);
}

Status CudaIdentifyOps::LargestKeyWeights(const KeyWeightTask& t, std::span<double> host_largest) {
  DUO_RETURN_IF_ERROR(kept_->Take());
  const auto n_heads = std::ssize(t.host_keys);
  const int64_t dim = t.head_dim, q_stride = n_heads * t.group * dim;
  const auto [rows, score_bytes] = ScoreBlock(t.n_tokens, t.n_keys);
  const size_t n_largest = n_heads * t.group * t.n_tokens;
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, blocks_.Get(score_bytes + n_largest * sizeof(float)));
  auto* scores = reinterpret_cast<float*>(memory);
  auto* largest = reinterpret_cast<float*>(memory + score_bytes);
  for (int64_t head = 0; head < n_heads; ++head) {
    const uint8_t* keys = t.host_keys[head];
    if (t.key_type != DType::kF32) {
      DUO_ASSIGN_OR_RETURN(uint8_t * floats, rounded_.Get(t.n_keys * dim * sizeof(float)));
      MatrixView view;
      view.data = keys;
      view.dtype = t.key_type;
      view.n_out = t.n_keys;
      view.n_in = dim;
      DUO_RETURN_IF_ERROR(CudaWidenRows(stream_, view, 0, t.n_keys, reinterpret_cast<float*>(floats)));
      keys = floats;
    }
    for (int64_t g = 0; g < t.group; ++g) {
      const int64_t q_head = head * t.group + g;
      for (int64_t begin = 0; begin < t.n_tokens; begin += rows) {
        const int64_t n = std::min(rows, t.n_tokens - begin);
        DUO_RETURN_IF_ERROR(matmul_->Run({.type = ComputeType::kF32,
                                          .x = t.q + begin * q_stride + q_head * dim,
                                          .x_stride = q_stride,
                                          .w = keys,
                                          .n_tokens = n,
                                          .n_in = dim,
                                          .n_out = t.n_keys,
                                          .out = scores,
                                          .scale = t.scale}));
        DUO_RETURN_IF_ERROR(CudaLargestWeights(stream_, scores, n, t.n_keys, t.lse + begin * n_heads * t.group + q_head,
                                               n_heads * t.group, largest + q_head * t.n_tokens + begin));
      }
    }
  }
  std::vector<float> found(n_largest);
  DUO_RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(found.data(), largest, n_largest * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
      "weights"));
  DUO_RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream_.get()), "weights of keys"));
  for (size_t i = 0; i < found.size(); ++i) {
    double& most = host_largest[i / (t.group * t.n_tokens)];
    most = std::isnan(most) || double{found[i]} <= most ? most : double{found[i]};  // keeps a NaN
  }
  return OkStatus();
}

}  // namespace duo
