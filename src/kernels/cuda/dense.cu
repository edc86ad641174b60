#include "kernels/cuda/dense.h"

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

template <DType kType>
__global__ void EmbedKernel(const void* table, const float* scale, const int32_t* ids, int64_t n, int64_t dim,
                            float* out) {
  for (int64_t i = FirstElement(); i < n * dim; i += ElementStride()) {
    const int64_t row = ids[i / dim];
    const float value = Element<kType>(table, row * dim + i % dim);
    out[i] = scale == nullptr ? value : value * scale[row];
  }
}

__global__ void RmsNormKernel(const float* x, const float* weight, float eps, int64_t dim, float* out) {
  DUO_SHARED_MEMORY(shared);
  x += static_cast<int64_t>(blockIdx.x) * dim;
  out += static_cast<int64_t>(blockIdx.x) * dim;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < dim; i += kElementThreads) squares += x[i] * x[i];
  squares = BlockReduce(squares, reinterpret_cast<float*>(shared), 0.0f, [](float v) { return WarpSum(v); });
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(dim) + eps);
  for (int64_t i = threadIdx.x; i < dim; i += kElementThreads) out[i] = x[i] * factor * weight[i];
}

__global__ void RopeKernel(float* x, int64_t n_tokens, int n_heads, int half, const float* cos, const float* sin) {
  const int64_t n = n_tokens * n_heads * half;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const int64_t d = i % half, head = i / half, angle = head / n_heads * half + d;
    float* low = x + head * 2 * half + d;
    const float a = low[0], b = low[half], c = cos[angle], s = sin[angle];
    low[0] = a * c - b * s;
    low[half] = b * c + a * s;
  }
}

__global__ void SwiGluKernel(float* gate, const float* up, int64_t n) {
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

__global__ void RoundToBf16Kernel(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) out[i] = Bf16OfFloat(x[i]);
}

__global__ void QuantizeInt8Kernel(const float* x, int64_t dim, int8_t* out, float* scales, float* grid) {
  DUO_SHARED_MEMORY(shared);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * dim;
  float most = 0, poison = 0;
  for (int64_t i = threadIdx.x; i < dim; i += kElementThreads) {
    most = fmaxf(most, fabsf(x[begin + i]));
    poison += x[begin + i] * 0.0f;
  }
  most = BlockReduce(most, reinterpret_cast<float*>(shared), 0.0f, [](float v) { return WarpMax(v); });
  poison = BlockReduce(poison, reinterpret_cast<float*>(shared) + kWarp, 0.0f, [](float v) { return WarpSum(v); });
  const bool some = most > 0x1p-100f && poison == 0.0f;
  const float scale = (some ? most / 127.0f : 0.0f) + poison, inverse = some ? 127.0f / most : 0.0f;
  if (threadIdx.x == 0 && scales != nullptr) scales[blockIdx.x] = scale;
  for (int64_t i = threadIdx.x; i < dim; i += kElementThreads) {
    const int code = some ? __float2int_rn(x[begin + i] * inverse) : 0;
    if (out != nullptr) out[begin + i] = static_cast<int8_t>(code);
    if (grid != nullptr) grid[begin + i] = static_cast<float>(code) * scale;
  }
}

__global__ void ScaleSumsKernel(CudaScaledSums s) {
  for (int64_t i = FirstElement(); i < s.n_tokens * s.n_out; i += ElementStride()) {
    const int64_t t = i / s.n_out, o = i % s.n_out;
    float value = static_cast<float>(s.sums[i]) * (s.x_scale[t] * s.w_scale[o]);
    if (s.bias != nullptr) value += s.bias[o];
    s.out[i] = s.accumulate != 0 ? s.out[i] + value : value;
  }
}

__global__ void AddBiasKernel(const float* bias, int64_t n, int64_t n_out, bool accumulate, float* out) {
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    out[i] = accumulate ? out[i] + bias[i % n_out] : bias[i % n_out];
  }
}

__device__ __forceinline__ void Put(uint16_t* at, float value) { *at = Bf16OfFloat(value); }
__device__ __forceinline__ void Put(float* at, float value) { *at = value; }

template <DType kType, class Out>
__global__ void WidenRowsKernel(const void* w, const float* scale, int64_t row_begin, int64_t n_rows, int64_t n_in,
                                Out* out) {
  for (int64_t i = FirstElement(); i < n_rows * n_in; i += ElementStride()) {
    const int64_t row = row_begin + i / n_in;
    const float value = Element<kType>(w, row * n_in + i % n_in);
    Put(out + i, scale == nullptr ? value : value * scale[row]);
  }
}

/// Where an int4 matrix has the code of one weight, and its scale (docs/formats.md).
struct Int4Place {
  int64_t word, scale;
  int shift;
};
__device__ __forceinline__ Int4Place PlaceOfInt4(int64_t row, int64_t i, int64_t block_bytes) {
  const int64_t piece = row / kInt4Rows * block_bytes + i / kInt4Inputs * static_cast<int64_t>(kInt4PieceBytes);
  const int64_t lane = row % kInt4Rows, group = i % kInt4Inputs / kInt4Group, in = i % kInt4Group;
  return {piece + 256 * group + in / 8 * 64 + lane * 4 + in % 4, piece + 512 + 32 * group + 2 * lane,
          in % 8 < 4 ? 0 : 4};
}

template <class Out>
__global__ void WidenInt4Kernel(const uint8_t* w, int64_t block_bytes, int64_t row_begin, int64_t n_rows, int64_t n_in,
                                Out* out) {
  for (int64_t i = FirstElement(); i < n_rows * n_in; i += ElementStride()) {
    const Int4Place at = PlaceOfInt4(row_begin + i / n_in, i % n_in, block_bytes);
    const int code = (w[at.word] >> at.shift & 15) - 8;
    Put(out + i, static_cast<float>(code) * FloatOfBf16(*reinterpret_cast<const uint16_t*>(w + at.scale)));
  }
}

}  // namespace

Status CudaEmbed(CudaStream stream, const MatrixView& table, const int32_t* ids, int64_t n, float* out) {
  const LaunchShape shape{ElementGrid(n * table.n_in), kElementThreads};
  DUO_FOR_DTYPE(table.dtype, return Launch(stream, "embedding", shape, EmbedKernel<kType>, table.data, table.scale, ids,
                                           n, table.n_in, out));
  return Status(StatusCode::kInternal, "the embedding is int4");
}

Status CudaRmsNorm(CudaStream stream, const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim,
                   float* out) {
  return Launch(stream, "RMSNorm", {GridOf(n_rows, 1), kElementThreads, kWarp * sizeof(float)}, RmsNormKernel, x,
                weight, eps, dim, out);
}

Status CudaRope(CudaStream stream, float* x, int64_t n_tokens, int n_heads, int head_dim, const float* cos,
                const float* sin) {
  const int half = head_dim / 2;
  return Launch(stream, "RoPE", {ElementGrid(n_tokens * n_heads * half), kElementThreads}, RopeKernel, x, n_tokens,
                n_heads, half, cos, sin);
}

Status CudaSwiGlu(CudaStream stream, float* gate, const float* up, int64_t n) {
  return Launch(stream, "SwiGLU", {ElementGrid(n), kElementThreads}, SwiGluKernel, gate, up, n);
}

Status CudaRoundToBf16(CudaStream stream, const float* x, int64_t n, uint16_t* out) {
  return Launch(stream, "rounding to bf16", {ElementGrid(n), kElementThreads}, RoundToBf16Kernel, x, n, out);
}

Status CudaQuantizeInt8(CudaStream stream, const float* x, int64_t n_rows, int64_t dim, int8_t* out, float* scale,
                        float* grid) {
  return Launch(stream, "rounding to int8", {GridOf(n_rows, 1), kElementThreads, 2 * kWarp * sizeof(float)},
                QuantizeInt8Kernel, x, dim, out, scale, grid);
}

Status CudaScaleSums(CudaStream stream, const CudaScaledSums& s) {
  return Launch(stream, "scaling sums", {ElementGrid(s.n_tokens * s.n_out), kElementThreads}, ScaleSumsKernel, s);
}

Status CudaAddBias(CudaStream stream, const float* bias, int64_t n_tokens, int64_t n_out, bool accumulate, float* out) {
  return Launch(stream, "bias", {ElementGrid(n_tokens * n_out), kElementThreads}, AddBiasKernel, bias, n_tokens * n_out,
                n_out, accumulate, out);
}

namespace {

template <class Out>
Status WidenRows(CudaStream stream, const MatrixView& w, int64_t row_begin, int64_t row_end, Out* out) {
  const int64_t n_rows = row_end - row_begin;
  const LaunchShape shape{ElementGrid(n_rows * w.n_in), kElementThreads};
  DUO_FOR_DTYPE(w.dtype, return Launch(stream, "widening weights", shape, WidenRowsKernel<kType, Out>, w.data, w.scale,
                                       row_begin, n_rows, w.n_in, out));
  return Launch(stream, "widening weights", shape, WidenInt4Kernel<Out>, static_cast<const uint8_t*>(w.data),
                static_cast<int64_t>(Int4BlockBytes(w.n_in)), row_begin, n_rows, w.n_in, out);
}

}  // namespace

Status CudaWidenRows(CudaStream stream, const MatrixView& w, int64_t row_begin, int64_t row_end, uint16_t* out) {
  return WidenRows(stream, w, row_begin, row_end, out);
}
Status CudaWidenRows(CudaStream stream, const MatrixView& w, int64_t row_begin, int64_t row_end, float* out) {
  return WidenRows(stream, w, row_begin, row_end, out);
}

}  // namespace duo
