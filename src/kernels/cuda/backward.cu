#include "kernels/cuda/backward.h"

#include <algorithm>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/mask.h"
#include "kernels/softmax_state.h"

namespace duo {
namespace {

constexpr int64_t kMixTokens = 64;  // tokens per partial sum of a gate's gradient

__global__ void RmsNormBackwardKernel(const float* x, const float* weight, float eps, int64_t dim, float* dy) {
  DUO_SHARED_MEMORY(shared);
  auto* sums = reinterpret_cast<float*>(shared);
  x += int64_t{blockIdx.x} * dim;
  dy += int64_t{blockIdx.x} * dim;
  float squares = 0, along = 0;
  for (int64_t i = threadIdx.x; i < dim; i += kElementThreads) {
    squares += x[i] * x[i];
    along += weight[i] * dy[i] * x[i];
  }
  const auto sum = [](float v) { return WarpSum(v); };
  squares = BlockReduce(squares, sums, 0.0f, sum);
  along = BlockReduce(along, sums + kWarp, 0.0f, sum);
  const float r = 1.0f / sqrtf(squares / static_cast<float>(dim) + eps);
  const float factor = r * r * r * along / static_cast<float>(dim);
  for (int64_t i = threadIdx.x; i < dim; i += kElementThreads) dy[i] = r * weight[i] * dy[i] - factor * x[i];
}

__global__ void SwiGluBackwardKernel(const float* dh, float* gate, float* up, int64_t n) {
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const float g = gate[i], s = 1.0f / (1.0f + expf(-g)), d = dh[i];
    gate[i] = d * up[i] * s * (1.0f + g * (1.0f - s));
    up[i] = d * g * s;
  }
}

__global__ void AddKernel(float* x, const float* y, int64_t n) {
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) x[i] += y[i];
}

__global__ void MixKernel(CudaHeadMix mix, float* out) {
  const int64_t n = mix.n_tokens * mix.n_kv_heads * mix.width;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const float gate = mix.gates[i / mix.width % mix.n_kv_heads];
    out[i] = gate * mix.full[i] + (1.0f - gate) * mix.streaming[i];
  }
}

__global__ void MixBackwardKernel(CudaHeadMix mix, float* d_out, double* sums) {
  DUO_SHARED_MEMORY(shared);
  auto* partial = reinterpret_cast<double*>(shared);  // [kElementThreads]
  const int64_t head = blockIdx.y, first = int64_t{blockIdx.x} * kMixTokens;
  const int64_t left = mix.n_tokens - first, n = (left < kMixTokens ? left : kMixTokens) * mix.width;
  const float rest = 1.0f - mix.gates[head];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kElementThreads) {
    const int64_t at = ((first + i / mix.width) * mix.n_kv_heads + head) * mix.width + i % mix.width;
    const float d = d_out[at];
    sum += double{d} * (double{mix.full[at]} - double{mix.streaming[at]});
    d_out[at] = rest * d;
  }
  partial[threadIdx.x] = sum;
  for (int step = kElementThreads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (ThreadIndex() < step) partial[threadIdx.x] += partial[threadIdx.x + step];
  }
  if (threadIdx.x == 0) sums[int64_t{blockIdx.x} * mix.n_kv_heads + head] = partial[0];
}

__global__ void SoftmaxBackwardKernel(CudaSoftmaxBackward a) {
  DUO_SHARED_MEMORY(shared);
  auto* reduced = reinterpret_cast<float*>(shared);  // [3, kWarp]
  const int64_t row = blockIdx.x;
  float* p = a.scores + row * a.n_columns;
  float* dp = a.dp + row * a.n_columns;
  const auto seen = [&](int64_t column) { return Sees(a.mask, a.first_pos + row, a.keys.pos(column)); };
  float max = kNegInf;
  for (int64_t i = threadIdx.x; i < a.n_columns; i += kElementThreads) {
    if (seen(i)) max = fmaxf(max, p[i]);
  }
  max = BlockReduce(max, reduced, kNegInf, [](float v) { return WarpMax(v); });
  float sum = 0, along = 0;
  for (int64_t i = threadIdx.x; i < a.n_columns; i += kElementThreads) {
    const float weight = seen(i) ? expf(p[i] - max) : 0.0f;
    p[i] = weight;
    sum += weight;
    along += weight == 0.0f ? 0.0f : weight * dp[i];
  }
  sum = BlockReduce(sum, reduced + kWarp, 0.0f, [](float v) { return WarpSum(v); });
  along = BlockReduce(along, reduced + 2 * kWarp, 0.0f, [](float v) { return WarpSum(v); }) / sum;
  for (int64_t i = threadIdx.x; i < a.n_columns; i += kElementThreads) {
    const float weight = p[i] / sum;
    p[i] = weight;
    dp[i] = weight == 0.0f ? 0.0f : a.scale * weight * (dp[i] - along);
  }
}

__global__ void LargestWeightsKernel(const float* scores, int64_t n_columns, const float* lse, int64_t lse_stride,
                                     float* largest) {
  DUO_SHARED_MEMORY(shared);
  auto* reduced = reinterpret_cast<float*>(shared);  // [2, kWarp]
  scores += int64_t{blockIdx.x} * n_columns;
  const float of = lse[int64_t{blockIdx.x} * lse_stride];
  float most = 0, poison = 0;
  for (int64_t i = threadIdx.x; i < n_columns; i += kElementThreads) {
    const float weight = expf(scores[i] - of);
    most = fmaxf(most, weight);
    poison += weight * 0.0f;
  }
  most = BlockReduce(most, reduced, 0.0f, [](float v) { return WarpMax(v); });
  poison = BlockReduce(poison, reduced + kWarp, 0.0f, [](float v) { return WarpSum(v); });
  if (threadIdx.x == 0) largest[blockIdx.x] = fminf(most, 1.0f) + poison;
}

}  // namespace

Status CudaRmsNormBackward(CudaStream stream, const float* x, const float* weight, float eps, int64_t n_rows,
                           int64_t dim, float* dy) {
  return Launch(stream, "gradient of RMSNorm", {GridOf(n_rows, 1), kElementThreads, 2 * kWarp * sizeof(float)},
                RmsNormBackwardKernel, x, weight, eps, dim, dy);
}

Status CudaSwiGluBackward(CudaStream stream, const float* dh, float* gate, float* up, int64_t n) {
  return Launch(stream, "gradient of SwiGLU", {ElementGrid(n), kElementThreads}, SwiGluBackwardKernel, dh, gate, up, n);
}

Status CudaAdd(CudaStream stream, float* x, const float* y, int64_t n) {
  return Launch(stream, "adding", {ElementGrid(n), kElementThreads}, AddKernel, x, y, n);
}

Status CudaMix(CudaStream stream, const CudaHeadMix& mix, float* out) {
  const int64_t n = mix.n_tokens * mix.n_kv_heads * mix.width;
  return Launch(stream, "mix of heads", {ElementGrid(n), kElementThreads}, MixKernel, mix, out);
}

int64_t CudaMixBlocks(int64_t n_tokens) { return (n_tokens + kMixTokens - 1) / kMixTokens; }

Status CudaMixBackward(CudaStream stream, const CudaHeadMix& mix, float* d_out, double* sums) {
  const dim3 grid(GridOf(mix.n_tokens, kMixTokens), mix.n_kv_heads);
  return Launch(stream, "gradient of the mix", {grid, kElementThreads, kElementThreads * sizeof(double)},
                MixBackwardKernel, mix, d_out, sums);
}

Status RunCudaSoftmaxBackward(CudaStream stream, const CudaSoftmaxBackward& s) {
  return Launch(stream, "gradient of softmax", {GridOf(s.n_rows, 1), kElementThreads, 3 * kWarp * sizeof(float)},
                SoftmaxBackwardKernel, s);
}

Status CudaLargestWeights(CudaStream stream, const float* scores, int64_t n_rows, int64_t n_columns, const float* lse,
                          int64_t lse_stride, float* largest) {
  return Launch(stream, "largest weights", {GridOf(n_rows, 1), kElementThreads, 2 * kWarp * sizeof(float)},
                LargestWeightsKernel, scores, n_columns, lse, lse_stride, largest);
}

}  // namespace duo
