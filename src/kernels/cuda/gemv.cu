// Products of a few tokens. Every weight is read once, and this reading determines the time.
#include <algorithm>

#include "kernels/cuda/dense.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

constexpr int kWarps = 8;  // per block
constexpr int kMaxTokens = 8;
constexpr int kStep = 8;  // inputs per load
constexpr int RowsOfWarp(int n_tokens) { return n_tokens <= 2 ? 2 : 1; }

constexpr int kMaxParts = 3;  // matrices per launch: q, k and v

/// A matrix, and the first of the blocks of threads that compute its rows.
struct GemvPart {
  const void* w;
  const float* w_scale;
  const float* bias;
  float* y;
  int64_t n_out;
  int32_t first_block, accumulate;  // 0 or 1
};
struct GemvArgs {
  GemvPart part[kMaxParts];
  int64_t n_in;
  const float* x;
  int32_t n_parts, round_x;  // 0 or 1
};
__device__ __forceinline__ const GemvPart& PartOfBlock(const GemvArgs& a) {
  int part = 0;
  while (part + 1 < a.n_parts && static_cast<int32_t>(blockIdx.x) >= a.part[part + 1].first_block) ++part;
  return a.part[part];
}

/// SmallFloat(n) is kSmallBase + n, for n < 2^23. It replaces conversions, which are slow. It works because the last
/// bits of a float of this size count in ones.
constexpr float kSmallBase = 8388608.0f;
__device__ __forceinline__ float SmallFloat(unsigned n) { return __uint_as_float(0x4b000000u | n); }

/// Loads eight weights from element i on. i is a multiple of 8, because rows begin at multiples of 8.
template <DType kType>
__device__ __forceinline__ void Load8(const void* w, int64_t i, float out[kStep]) {
  if constexpr (kType == DType::kF32) {
    const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(w) + i);
    const float4 a = from[0], b = from[1];
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
  } else if constexpr (kType == DType::kI8) {
    const uint2 bytes = *reinterpret_cast<const uint2*>(static_cast<const int8_t*>(w) + i);
    const unsigned words[2] = {bytes.x ^ 0x80808080u, bytes.y ^ 0x80808080u};
#pragma unroll
    for (int j = 0; j < kStep; ++j) out[j] = SmallFloat(words[j / 4] >> (j % 4 * 8) & 0xffu) - (kSmallBase + 128);
  } else {
    const uint4 four = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(w) + i);
    const unsigned words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < kStep; ++j) {
      const uint16_t bits = words[j / 2] >> (j % 2 * 16) & 0xffffu;
      out[j] = kType == DType::kBF16 ? FloatOfBf16(bits) : FloatOfHalf(bits);
    }
  }
}

__device__ __forceinline__ float Rounded(float x, int32_t round) {
  return round != 0 ? FloatOfBf16(Bf16OfFloat(x)) : x;
}

__device__ __forceinline__ void Finish(const GemvPart& a, int64_t row, int64_t t, float sum) {
  if (a.bias != nullptr) sum += a.bias[row];
  float* y = a.y + t * a.n_out + row;
  *y = a.accumulate != 0 ? *y + sum : sum;
}

/// A warp computes kRows outputs, so that x is read and rounded once for all of them.
template <DType kType, int kTokens, bool kVectors>
__global__ void GemvKernel(const __grid_constant__ GemvArgs a) {
  constexpr int kRows = RowsOfWarp(kTokens);
  const int lane = LaneIndex();
  const GemvPart& part = PartOfBlock(a);
  const int64_t block = static_cast<int32_t>(blockIdx.x) - part.first_block;
  const int64_t row = (block * kWarps + WarpIndex()) * kRows;
  if (row >= part.n_out) return;
  // Rows after the last output are computed as the last one and not stored.
  const auto row_at = [&](int r) { return row + r < part.n_out ? row + r : part.n_out - 1; };
  float sums[kRows][kTokens] = {};
  if constexpr (kVectors) {
    for (int64_t i = lane * kStep; i < a.n_in; i += kWarp * kStep) {
      float w[kRows][kStep];
#pragma unroll
      for (int r = 0; r < kRows; ++r) Load8<kType>(part.w, row_at(r) * a.n_in + i, w[r]);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        float x[kStep];
        Load8<DType::kF32>(a.x, t * a.n_in + i, x);
#pragma unroll
        for (int j = 0; j < kStep; ++j) {
          const float rounded = Rounded(x[j], a.round_x);
#pragma unroll
          for (int r = 0; r < kRows; ++r) sums[r][t] += w[r][j] * rounded;
        }
      }
    }
  } else {
    for (int64_t i = lane; i < a.n_in; i += kWarp) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float rounded = Rounded(a.x[t * a.n_in + i], a.round_x);
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r][t] += Element<kType>(part.w, row_at(r) * a.n_in + i) * rounded;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float scale = part.w_scale == nullptr ? 1.0f : part.w_scale[row_at(r)];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float sum = WarpSum(sums[r][t]) * scale;
      if (lane == 0 && row + r < part.n_out) Finish(part, row + r, t, sum);
    }
  }
}

/// Adds to sums[t] the products of one group of a piece: one output's weights of kInt4Group inputs from `first` on.
template <int kTokens, bool kVectors>
__device__ __forceinline__ void AddInt4Piece(const GemvArgs& a, const uint8_t* piece, int64_t first, int group, int out,
                                             float* sums) {
  const float scale = FloatOfBf16(*reinterpret_cast<const uint16_t*>(piece + Int4ScaleAt(group, out)));
  float part[kTokens] = {};
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    const unsigned codes = *reinterpret_cast<const uint32_t*>(piece + Int4WordAt(group, word, out));
    const int64_t i = first + 8 * word;
    if (i >= a.n_in) continue;
    float w[kStep];
#pragma unroll
    for (int j = 0; j < kStep; ++j) {  // inputs 0..3 are in the low halves of the word's bytes, 4..7 in the high
      w[j] = SmallFloat(codes >> (8 * (j % 4) + (j < 4 ? 0 : 4)) & 15u) - (kSmallBase + 8);
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      float x[kStep];
      if constexpr (kVectors) {
        Load8<DType::kF32>(a.x, t * a.n_in + i, x);
      } else {
        for (int j = 0; j < kStep; ++j) x[j] = i + j < a.n_in ? a.x[t * a.n_in + i + j] : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kStep; ++j) part[t] += w[j] * Rounded(x[j], a.round_x);
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) sums[t] += scale * part[t];
}

/// A block computes 16 outputs of int4. Its warps take the pieces of 64 inputs in turn. Each lane of a warp has one
/// output and one of the piece's two groups of 32 inputs.
template <int kTokens, bool kVectors>
__global__ void Gemv4Kernel(const __grid_constant__ GemvArgs a) {
  constexpr int kRows = kInt4Rows;
  constexpr int64_t kPieceBytes = kInt4PieceBytes;
  DUO_SHARED_MEMORY(shared);
  const GemvPart& matrix = PartOfBlock(a);
  const int64_t row_block = static_cast<int32_t>(blockIdx.x) - matrix.first_block;
  auto* partial = reinterpret_cast<float*>(shared);  // [kWarps, kRows, kTokens]
  const int warp = WarpIndex(), out = LaneIndex() % kRows, group = LaneIndex() / kRows;
  const int64_t n_pieces = (a.n_in + kInt4Inputs - 1) / kInt4Inputs;
  const auto* block = static_cast<const uint8_t*>(matrix.w) + row_block * n_pieces * kPieceBytes;
  float sums[kTokens] = {};
  for (int64_t p = warp; p < n_pieces; p += kWarps) {
    const uint8_t* piece = block + p * kPieceBytes;
    AddInt4Piece<kTokens, kVectors>(a, piece, p * kInt4Inputs + group * kInt4Group, group, out, sums);
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    sums[t] += __shfl_xor_sync(kWholeWarp, sums[t], kRows);
    if (group == 0) partial[(warp * kRows + out) * kTokens + t] = sums[t];
  }
  __syncthreads();
  const int i = ThreadIndex();
  if (i >= kRows * kTokens) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += partial[w * kRows * kTokens + i];
  const int64_t row = row_block * kRows + i / kTokens;
  if (row < matrix.n_out) Finish(matrix, row, i % kTokens, sum);
}

template <int kTokens>
Status RunTokens(CudaStream stream, DType type, unsigned n_blocks, const GemvArgs& args) {
  constexpr int kThreads = kWarps * kWarp;
  const bool vectors = args.n_in % kStep == 0 && reinterpret_cast<uintptr_t>(args.x) % 16 == 0;
  if (type == DType::kU8) {
    const size_t shared = sizeof(float) * kWarps * kInt4Rows * kTokens;
    return Launch(stream, "product with int4 weights", {n_blocks, kThreads, shared},
                  vectors ? Gemv4Kernel<kTokens, true> : Gemv4Kernel<kTokens, false>, args);
  }
  DUO_FOR_DTYPE(type,
                return Launch(stream, "product of few tokens", {n_blocks, kThreads},
                              vectors ? GemvKernel<kType, kTokens, true> : GemvKernel<kType, kTokens, false>, args));
  return OkStatus();
}

/// Runs at most kMaxParts tasks with weights of one type.
Status RunParts(CudaStream stream, std::span<const CudaGemvTask> tasks, const CudaGemv& g) {
  const DType type = tasks[0].w.dtype;
  const int64_t n_in = tasks[0].w.n_in;
  for (int64_t done = 0; done < g.n_tokens;) {
    const int64_t left = g.n_tokens - done, n = left >= kMaxTokens ? kMaxTokens : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    GemvArgs args{.part = {},
                  .n_in = n_in,
                  .x = g.x + done * n_in,
                  .n_parts = static_cast<int32_t>(tasks.size()),
                  .round_x = g.round_x ? 1 : 0};
    unsigned n_blocks = 0;
    for (size_t i = 0; i < tasks.size(); ++i) {
      const CudaGemvTask& task = tasks[i];
      args.part[i] = {.w = task.w.data,
                      .w_scale = task.w.scale,
                      .bias = task.bias,
                      .y = task.y + done * task.w.n_out,
                      .n_out = task.w.n_out,
                      .first_block = static_cast<int32_t>(n_blocks),
                      .accumulate = task.accumulate ? 1 : 0};
      n_blocks += GridOf(task.w.n_out, type == DType::kU8 ? kInt4Rows : kWarps * RowsOfWarp(n));
    }
    switch (n) {
      case 1: DUO_RETURN_IF_ERROR(RunTokens<1>(stream, type, n_blocks, args)); break;
      case 2: DUO_RETURN_IF_ERROR(RunTokens<2>(stream, type, n_blocks, args)); break;
      case 4: DUO_RETURN_IF_ERROR(RunTokens<4>(stream, type, n_blocks, args)); break;
      default: DUO_RETURN_IF_ERROR(RunTokens<kMaxTokens>(stream, type, n_blocks, args)); break;
    }
    done += n;
  }
  return OkStatus();
}

}  // namespace

Status RunCudaGemv(CudaStream stream, const CudaGemv& g) {
  for (size_t begin = 0; begin < g.tasks.size();) {
    size_t n = 1;
    while (begin + n < g.tasks.size() && n < kMaxParts && g.tasks[begin + n].w.dtype == g.tasks[begin].w.dtype) ++n;
    DUO_RETURN_IF_ERROR(RunParts(stream, g.tasks.subspan(begin, n), g));
    begin += n;
  }
  return OkStatus();
}

}  // namespace duo
