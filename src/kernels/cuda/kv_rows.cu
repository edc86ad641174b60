#include "kernels/cuda/kv_rows.h"

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/kv_code_layout.h"

namespace duo {
namespace {

constexpr int kWarps = 4;       // per block; each takes one row at a time
constexpr int kMaxTasks = 128;  // per launch, passed in its parameters
constexpr int kMaxDims = 512;
constexpr int64_t kMaxRowBlocks = 1024;

template <class Task>
struct Tasks {
  static_assert(std::has_unique_object_representations_v<Task>, "the arguments of launches are compared as bytes");
  Task task[kMaxTasks];
};

__device__ __forceinline__ float Clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }

/// QuantizeRow (kernels/kv_codes.h), computed by a warp. codes: head_dim bytes, padded, in shared memory that only this
/// warp uses.
__device__ void QuantizeWarpRow(const float* x, const KvFormat& format, uint8_t* to, int64_t row, uint8_t* codes) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, head_dim = format.head_dim;
  const bool bytes = format.type == KvType::kInt8;
  const int levels = bytes ? 255 : 15;
  float least = __uint_as_float(0x7f800000u), most = -least, poison = 0;
  for (int d = lane; d < head_dim; d += kWarp) {
    least = fminf(least, x[d]);
    most = fmaxf(most, x[d]);
    poison += x[d] * 0.0f;
  }
  least = Clamp(WarpMin(least), -kMaxQuantized, kMaxQuantized);
  most = Clamp(WarpMax(most), -kMaxQuantized, kMaxQuantized);
  const bool finite = WarpSum(poison) == 0.0f;
  const uint16_t low_bits = finite ? RoundDownToBf16(least) : uint16_t{0x7fc0};
  const float first = FloatOfBf16(low_bits);
  const uint16_t step_bits = finite ? RoundUpToBf16((most - first) / static_cast<float>(levels)) : uint16_t{0};
  const float width = FloatOfBf16(step_bits);
  const CodeRow out = CodeRowOf(format, row);
  const int padded = bytes ? 4 * out.n_words : 8 * out.n_words;
  for (int d = lane; d < padded; d += kWarp) {
    const bool some = d < head_dim && width > 0;
    const float at = some ? (Clamp(x[d], least, most) - first) / width + 0.5f : 0.0f;
    const int code = static_cast<int>(at);
    codes[d] = static_cast<uint8_t>(code < levels ? code : levels);
  }
  __syncwarp();
  for (int i = lane; i < 4 * out.n_words; i += kWarp) to[out.At(i / 4, i % 4)] = CodeByte(format, codes, i / 4, i % 4);
  if (lane == 0) {
    auto* params = reinterpret_cast<uint16_t*>(to + out.params);
    params[0] = step_bits;
    params[1] = low_bits;
  }
  __syncwarp();
}

template <KvType kType>
__global__ void StoreRowsKernel(const __grid_constant__ Tasks<StoreTask> tasks, int head_dim) {
  DUO_SHARED_MEMORY(shared);
  const StoreTask& task = tasks.task[blockIdx.y];
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
      QuantizeWarpRow(x, {task.part, kType, head_dim}, task.dst, row, shared + warp * (kMaxDims + 8));
    }
  }
}

template <KvType kType>
__global__ void CopyRowsKernel(const __grid_constant__ Tasks<CopyRowsTask> tasks, int head_dim) {
  const CopyRowsTask& task = tasks.task[blockIdx.y];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + warp; r < task.n_rows;
       r += static_cast<int64_t>(gridDim.x) * kWarps) {
    if constexpr (KvBlockRows(kType) == 1) {
      // head_dim is even, so a row has whole words of 4 bytes.
      const int n_words = static_cast<int>(KvRowBytes(kType, head_dim) / 4);
      const auto* from = reinterpret_cast<const uint32_t*>(task.src) + (task.src_row + r) * n_words;
      auto* to = reinterpret_cast<uint32_t*>(task.dst) + (task.dst_row + r) * n_words;
      for (int i = lane; i < n_words; i += kWarp) to[i] = from[i];
    } else {
      const KvFormat format{task.part, kType, head_dim};
      const CodeRow a = CodeRowOf(format, task.src_row + r), b = CodeRowOf(format, task.dst_row + r);
      for (int i = lane; i < 4 * a.n_words; i += kWarp) task.dst[b.At(i / 4, i % 4)] = task.src[a.At(i / 4, i % 4)];
      if (lane == 0) {
        *reinterpret_cast<uint32_t*>(task.dst + b.params) = *reinterpret_cast<const uint32_t*>(task.src + a.params);
      }
    }
  }
}

/// Makes one launch for every kMaxTasks tasks that have rows.
template <class Task, class Start>
Status ForTasks(std::span<const Task> tasks, const Start& start) {
  Tasks<Task> some = {};
  unsigned n = 0;
  int64_t rows = 0;
  const auto flush = [&]() -> Status {
    if (n == 0) return OkStatus();
    const dim3 grid(static_cast<unsigned>(std::min((rows + kWarps - 1) / kWarps, kMaxRowBlocks)), n);
    n = 0;
    rows = 0;
    return start(some, grid);
  };
  for (const Task& task : tasks) {
    if (task.n_rows == 0) continue;
    some.task[n++] = task;
    rows = std::max(rows, task.n_rows);
    if (n == kMaxTasks) DUO_RETURN_IF_ERROR(flush());
  }
  return flush();
}

}  // namespace

Status CudaStoreRows(CudaStream stream, std::span<const StoreTask> tasks, int head_dim, KvType type) {
  return ForTasks(tasks, [&](const Tasks<StoreTask>& some, dim3 grid) {
    const LaunchShape shape{grid, kWarps * kWarp, kWarps * (kMaxDims + 8)};
    auto* kernel = type == KvType::kF32    ? StoreRowsKernel<KvType::kF32>
                   : type == KvType::kBF16 ? StoreRowsKernel<KvType::kBF16>
                   : type == KvType::kInt8 ? StoreRowsKernel<KvType::kInt8>
                                           : StoreRowsKernel<KvType::kInt4>;
    return Launch(stream, "storing K and V", shape, kernel, some, head_dim);
  });
}

Status CudaCopyRows(CudaStream stream, std::span<const CopyRowsTask> tasks, int head_dim, KvType type) {
  return ForTasks(tasks, [&](const Tasks<CopyRowsTask>& some, dim3 grid) {
    const LaunchShape shape{grid, kWarps * kWarp};
    auto* kernel = type == KvType::kF32    ? CopyRowsKernel<KvType::kF32>
                   : type == KvType::kBF16 ? CopyRowsKernel<KvType::kBF16>
                   : type == KvType::kInt8 ? CopyRowsKernel<KvType::kInt8>
                                           : CopyRowsKernel<KvType::kInt4>;
    return Launch(stream, "copying K and V", shape, kernel, some, head_dim);
  });
}

}  // namespace duo
