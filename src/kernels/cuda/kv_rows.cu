#include "kernels/cuda/kv_rows.h"

#include <algorithm>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

constexpr int kWarps = 4;        // of a block, a row each
constexpr int kMostTasks = 128;  // of a launch: they travel in its parameters
constexpr int kMostDims = 512;
constexpr int64_t kMostRowBlocks = 1024;

template <class Task>
struct Tasks {
  Task task[kMostTasks];
};

/// Where the bytes of a quantised row are (kernels/kv_codes.cc): byte i of its codes at
/// codes + i / 4 * word_step + i % 4 * byte_step.
struct RowBytes {
  int64_t codes, params;
  int word_step, byte_step, n_words;
};

__device__ __forceinline__ RowBytes BytesOf(KvPart part, KvType type, int head_dim, int64_t row) {
  const int code_bytes = CodeBytes(type == KvType::kInt8 ? 8 : 4, head_dim);
  const int64_t block = row / kCodeRows * kCodeRows * (code_bytes + 4);
  const int lane = static_cast<int>(row % kCodeRows);
  const bool keys = part == KvPart::kKeys;
  return {block + (keys ? 4 * lane : lane / 4 * 4 * code_bytes + lane % 4), block + kCodeRows * code_bytes + 4 * lane,
          keys ? 4 * kCodeRows : 16, keys ? 1 : 4, code_bytes / 4};
}

/// The nearest bf16 number that is not above x.
__device__ __forceinline__ uint16_t RoundDown(float x) {
  const unsigned bits = __float_as_uint(x);
  const bool up = (bits >> 31) != 0 && (bits & 0xffffu) != 0;
  return static_cast<uint16_t>((bits >> 16) + (up ? 1u : 0u));
}
__device__ __forceinline__ uint16_t RoundUp(float x) { return static_cast<uint16_t>(RoundDown(-x) ^ 0x8000u); }

__device__ __forceinline__ float Clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }

__device__ void QuantizeWarpRow(const float* x, const CudaStoreTask& task, int64_t row, int head_dim, KvType type,
                                uint8_t* codes) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool bytes = type == KvType::kInt8;
  const int levels = bytes ? 255 : 15;
  float least = __uint_as_float(0x7f800000u), most = -least, poison = 0;
  for (int d = lane; d < head_dim; d += kWarp) {
    least = fminf(least, x[d]);
    most = fmaxf(most, x[d]);
    poison += x[d] * 0.0f;
  }
  least = Clamp(WarpMin(least), -kMostQuantized, kMostQuantized);
  most = Clamp(WarpMax(most), -kMostQuantized, kMostQuantized);
  const bool finite = WarpSum(poison) == 0.0f;
  const uint16_t low_bits = finite ? RoundDown(least) : uint16_t{0x7fc0};
  const float first = FloatOfBf16(low_bits);
  const uint16_t step_bits = finite ? RoundUp((most - first) / static_cast<float>(levels)) : uint16_t{0};
  const float width = FloatOfBf16(step_bits);
  const RowBytes out = BytesOf(task.part, type, head_dim, row);
  const int padded = bytes ? 4 * out.n_words : 8 * out.n_words;
  for (int d = lane; d < padded; d += kWarp) {
    const bool some = d < head_dim && width > 0;
    const float at = some ? (Clamp(x[d], least, most) - first) / width + 0.5f : 0.0f;
    const int code = static_cast<int>(at);
    codes[d] = static_cast<uint8_t>(code < levels ? code : levels);
  }
  __syncwarp();
  const bool keys = task.part == KvPart::kKeys;
  for (int i = lane; i < 4 * out.n_words; i += kWarp) {
    const int word = i / 4, in = i % 4, d = bytes ? i : 8 * word + (keys ? in : 2 * in);
    const int code = bytes ? codes[d] : codes[d] | codes[d + (keys ? 4 : 1)] << 4;
    task.dst[out.codes + static_cast<int64_t>(word) * out.word_step + in * out.byte_step] = static_cast<uint8_t>(code);
  }
  if (lane == 0) {
    auto* params = reinterpret_cast<uint16_t*>(task.dst + out.params);
    params[0] = step_bits;
    params[1] = low_bits;
  }
  __syncwarp();
}

template <KvType kType>
__global__ void StoreRowsKernel(const __grid_constant__ Tasks<CudaStoreTask> tasks, int head_dim) {
  DUO_SHARED_MEMORY(shared);
  const CudaStoreTask& task = tasks.task[blockIdx.y];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + warp; r < task.n_rows;
       r += static_cast<int64_t>(gridDim.x) * kWarps) {
    const float* x = task.src + r * task.src_stride;
    const int64_t row = task.row + r;
    if constexpr (kType == KvType::kF32) {
      for (int d = lane; d < head_dim; d += kWarp) reinterpret_cast<float*>(task.dst)[row * head_dim + d] = x[d];
    } else if constexpr (kType == KvType::kBF16) {
      for (int d = lane; d < head_dim; d += kWarp) {
        reinterpret_cast<uint16_t*>(task.dst)[row * head_dim + d] = Bf16OfFloat(x[d]);
      }
    } else {
      QuantizeWarpRow(x, task, row, head_dim, kType, shared + warp * (kMostDims + 8));
    }
  }
}

template <KvType kType>
__global__ void CopyRowsKernel(const __grid_constant__ Tasks<CudaCopyRowsTask> tasks, int head_dim) {
  const CudaCopyRowsTask& task = tasks.task[blockIdx.y];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + warp; r < task.n_rows;
       r += static_cast<int64_t>(gridDim.x) * kWarps) {
    if constexpr (KvBlockRows(kType) == 1) {
      // head_dim is even: whole words of at least 4 bytes.
      const int n_words = static_cast<int>(KvRowBytes(kType, head_dim) / 4);
      const auto* from = reinterpret_cast<const uint32_t*>(task.src) + (task.src_row + r) * n_words;
      auto* to = reinterpret_cast<uint32_t*>(task.dst) + (task.dst_row + r) * n_words;
      for (int i = lane; i < n_words; i += kWarp) to[i] = from[i];
    } else {
      const RowBytes a = BytesOf(task.part, kType, head_dim, task.src_row + r);
      const RowBytes b = BytesOf(task.part, kType, head_dim, task.dst_row + r);
      for (int i = lane; i < 4 * a.n_words; i += kWarp) {
        task.dst[b.codes + static_cast<int64_t>(i / 4) * b.word_step + i % 4 * b.byte_step] =
            task.src[a.codes + static_cast<int64_t>(i / 4) * a.word_step + i % 4 * a.byte_step];
      }
      if (lane == 0) {
        *reinterpret_cast<uint32_t*>(task.dst + b.params) = *reinterpret_cast<const uint32_t*>(task.src + a.params);
      }
    }
  }
}

/// One launch for every kMostTasks tasks that have rows.
template <class Task, class Start>
Status ForTasks(std::span<const Task> tasks, const Start& start) {
  Tasks<Task> some = {};
  unsigned n = 0;
  int64_t rows = 0;
  const auto flush = [&]() -> Status {
    if (n == 0) return OkStatus();
    const dim3 grid(static_cast<unsigned>(std::min((rows + kWarps - 1) / kWarps, kMostRowBlocks)), n);
    n = 0;
    rows = 0;
    return start(some, grid);
  };
  for (const Task& task : tasks) {
    if (task.n_rows == 0) continue;
    some.task[n++] = task;
    rows = std::max(rows, task.n_rows);
    if (n == kMostTasks) DUO_RETURN_IF_ERROR(flush());
  }
  return flush();
}

}  // namespace

Status CudaStoreRows(CudaStream stream, std::span<const CudaStoreTask> tasks, int head_dim, KvType type) {
  return ForTasks(tasks, [&](const Tasks<CudaStoreTask>& some, dim3 grid) {
    const LaunchShape shape{grid, kWarps * kWarp, kWarps * (kMostDims + 8)};
    auto* kernel = type == KvType::kF32    ? StoreRowsKernel<KvType::kF32>
                   : type == KvType::kBF16 ? StoreRowsKernel<KvType::kBF16>
                   : type == KvType::kInt8 ? StoreRowsKernel<KvType::kInt8>
                                           : StoreRowsKernel<KvType::kInt4>;
    return Launch(stream, "storing K and V", shape, kernel, some, head_dim);
  });
}

Status CudaCopyRows(CudaStream stream, std::span<const CudaCopyRowsTask> tasks, int head_dim, KvType type) {
  return ForTasks(tasks, [&](const Tasks<CudaCopyRowsTask>& some, dim3 grid) {
    const LaunchShape shape{grid, kWarps * kWarp};
    auto* kernel = type == KvType::kF32    ? CopyRowsKernel<KvType::kF32>
                   : type == KvType::kBF16 ? CopyRowsKernel<KvType::kBF16>
                   : type == KvType::kInt8 ? CopyRowsKernel<KvType::kInt8>
                                           : CopyRowsKernel<KvType::kInt4>;
    return Launch(stream, "copying K and V", shape, kernel, some, head_dim);
  });
}

}  // namespace duo
