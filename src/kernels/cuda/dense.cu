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

constexpr int kMaxRowThreads = 1024;
constexpr int kTogether = 4;  // numbers that a thread loads at the same time

/// The int8 codes of a row: the step between them, and whether the row is finite and not zero.
struct RowGrid {
  float scale = 0, inverse = 0;
  bool some = false;
};

/// The codes for the row of these values. All threads of the block take part; shared: [2, kWarp].
template <class Value>
__device__ __forceinline__ RowGrid GridOfRow(int64_t dim, int64_t from, int64_t step, const Value& value_of,
                                             float* shared) {
  float most = 0, poison = 0;
  for (int64_t i = from; i < dim; i += step) {
    const float value = value_of(i);
    most = fmaxf(most, fabsf(value));
    poison += value * 0.0f;
  }
  most = BlockReduce(most, shared, 0.0f, [](float v) { return WarpMax(v); });
  poison = BlockReduce(poison, shared + kWarp, 0.0f, [](float v) { return WarpSum(v); });
  const bool some = most > 0x1p-100f && poison == 0.0f;
  return {.scale = (some ? most / 127.0f : 0.0f) + poison, .inverse = some ? 127.0f / most : 0.0f, .some = some};
}

/// A thread makes the numbers from, from + step, ... of a row. A row with a norm or codes belongs to one block. This
/// block reads it several times, but after the first time from the cache. Any other row is shared by gridDim.y blocks.
__global__ void __launch_bounds__(kMaxRowThreads) MakeRowsKernel(CudaRows r, CudaRowsOut out) {
  DUO_SHARED_MEMORY(memory);
  auto* shared = reinterpret_cast<float*>(memory);  // [3, kWarp]
  const int64_t begin = int64_t{blockIdx.x} * r.dim;
  const int64_t from = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  const int64_t step = int64_t{gridDim.y} * blockDim.x;
  float factor = 1;
  if (r.norm != nullptr) {
    float squares = 0;
    for (int64_t i = from; i < r.dim; i += step) squares += r.x[begin + i] * r.x[begin + i];
    squares = BlockReduce(squares, shared, 0.0f, [](float v) { return WarpSum(v); });
    factor = 1.0f / sqrtf(squares / static_cast<float>(r.dim) + r.eps);
  }
  const auto made = [&](int64_t i) {
    const float x = r.x[begin + i];
    if (r.norm != nullptr) return x * factor * r.norm[i];
    return r.up != nullptr ? x / (1.0f + expf(-x)) * r.up[begin + i] : x;
  };
  RowGrid grid;
  if (out.codes != nullptr || out.grid != nullptr) {
    grid = GridOfRow(r.dim, from, step, made, shared + kWarp);
    if (threadIdx.x == 0 && out.scale != nullptr) out.scale[blockIdx.x] = grid.scale;
  }
  for (int64_t first = from; first < r.dim; first += kTogether * step) {
    float values[kTogether] = {};
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (first + j * step < r.dim) values[j] = made(first + j * step);
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const int64_t i = begin + first + j * step;
      if (first + j * step >= r.dim) continue;
      const int code = grid.some ? __float2int_rn(values[j] * grid.inverse) : 0;
      if (out.floats != nullptr) out.floats[i] = values[j];
      if (out.rounded != nullptr) out.rounded[i] = Bf16OfFloat(values[j]);
      if (out.codes != nullptr) out.codes[i] = code;
      if (out.grid != nullptr) out.grid[i] = code * grid.scale;
    }
  }
}

__global__ void RopeKernel(const __grid_constant__ CudaRope r) {
  const int64_t half = r.head_dim / 2, n_heads = r.n_heads + r.n_kv_heads;
  for (int64_t i = FirstElement(); i < r.n_tokens * n_heads * half; i += ElementStride()) {
    const int64_t d = i % half, token = i / half / n_heads, head = i / half % n_heads, angle = token * half + d;
    float* of = head < r.n_heads ? r.q + (token * r.n_heads + head) * r.head_dim
                                 : r.k + (token * r.n_kv_heads + head - r.n_heads) * r.head_dim;
    float* low = of + d;
    const float a = low[0], b = low[half], c = r.cos[angle], s = r.sin[angle];
    low[0] = a * c - b * s;
    low[half] = b * c + a * s;
  }
}

__global__ void ScaleSumsKernel(CudaScaledSums s) {
  for (int64_t i = FirstElement(); i < s.n_tokens * s.n_out; i += ElementStride()) {
    const int64_t t = i / s.n_out, o = i % s.n_out;
    float value = s.sums[i] * (s.x_scale[t] * s.w_scale[o]);
    if (s.bias != nullptr) value += s.bias[o];
    s.out[i] = s.accumulate != 0 ? s.out[i] + value : value;
  }
}

__global__ void AddBiasKernel(const __grid_constant__ CudaBias b) {
  for (int64_t i = FirstElement(); i < b.n_tokens * b.n_out; i += ElementStride()) {
    b.out[i] = b.bias[i % b.n_out] + (b.accumulate != 0 ? b.out[i] : 0.0f);
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

/// The places of a weight's code and scale in an int4 matrix (docs/formats.md).
struct Int4Place {
  int64_t word, scale;
  int shift;
};
__device__ __forceinline__ Int4Place PlaceOfInt4(int64_t row, int64_t i, int64_t block_bytes) {
  constexpr int64_t kPieceBytes = kInt4PieceBytes;
  const int64_t piece = row / kInt4Rows * block_bytes + i / kInt4Inputs * kPieceBytes;
  const int64_t lane = row % kInt4Rows, group = i % kInt4Inputs / kInt4Group, in = i % kInt4Group;
  return {piece + Int4WordAt(group, in / 8, lane) + in % 4, piece + Int4ScaleAt(group, lane), in % 8 < 4 ? 0 : 4};
}

template <class Out>
__global__ void WidenInt4Kernel(const uint8_t* w, int64_t block_bytes, int64_t row_begin, int64_t n_rows, int64_t n_in,
                                Out* out) {
  for (int64_t i = FirstElement(); i < n_rows * n_in; i += ElementStride()) {
    const Int4Place at = PlaceOfInt4(row_begin + i / n_in, i % n_in, block_bytes);
    const int code = (w[at.word] >> at.shift & 15) - 8;
    Put(out + i, code * FloatOfBf16(*reinterpret_cast<const uint16_t*>(w + at.scale)));
  }
}

}  // namespace

Status CudaEmbed(CudaStream stream, const MatrixView& table, const int32_t* ids, int64_t n, float* out) {
  const LaunchShape shape{ElementGrid(n * table.n_in), kElementThreads};
  DUO_FOR_DTYPE(table.dtype, return Launch(stream, "embedding", shape, EmbedKernel<kType>, table.data, table.scale, ids,
                                           n, table.n_in, out));
  return Status(StatusCode::kInternal, "CUDA: an int4 embedding is not supported");
}

Status CudaMakeRows(CudaStream stream, const CudaRows& rows, const CudaRowsOut& out) {
  const bool whole = rows.norm != nullptr || out.codes != nullptr || out.grid != nullptr;
  // A decode step's only token may get only one block. So a long row gets a block of the largest size.
  constexpr int64_t kLong = 4096;
  constexpr unsigned kMaxParts = 4096;
  const unsigned threads = whole && rows.dim >= kLong ? kMaxRowThreads : kElementThreads;
  const int64_t of_block = int64_t{threads} * kTogether;
  const unsigned parts = whole ? 1 : std::min(GridOf(rows.dim, of_block), kMaxParts);
  return Launch(stream, "rows of activations",
                {dim3(GridOf(rows.n_rows, 1), parts), threads, 3 * kWarp * sizeof(float)}, MakeRowsKernel, rows, out);
}

Status RunCudaRope(CudaStream stream, const CudaRope& rope) {
  const int64_t n = rope.n_tokens * (rope.n_heads + rope.n_kv_heads) * (rope.head_dim / 2);
  return Launch(stream, "RoPE", {ElementGrid(n), kElementThreads}, RopeKernel, rope);
}

Status CudaScaleSums(CudaStream stream, const CudaScaledSums& s) {
  return Launch(stream, "scaling sums", {ElementGrid(s.n_tokens * s.n_out), kElementThreads}, ScaleSumsKernel, s);
}

Status CudaAddBias(CudaStream stream, const CudaBias& b) {
  return Launch(stream, "bias", {ElementGrid(b.n_tokens * b.n_out), kElementThreads}, AddBiasKernel, b);
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
