#include "backend/cuda_products.h"

#include <algorithm>
#include <vector>

#include "base/align.h"
#include "base/check.h"
#include "kernels/cuda/dense.h"

namespace duo {
namespace {

// Up to this many tokens, a product reads each weight once, row by row. With more tokens it calls cuBLASLt.
constexpr int64_t kFewTokens = 8;

/// Tokens [begin, begin + n).
CudaRows RowsOf(const ProductInput& input, int64_t begin, int64_t n) {
  return {.x = input.x + begin * input.n_in,
          .n_rows = n,
          .dim = input.n_in,
          .norm = input.norm,
          .up = input.up == nullptr ? nullptr : input.up + begin * input.n_in,
          .eps = input.eps};
}
CudaRows RowsOf(const ProductInput& input) { return RowsOf(input, 0, input.n_tokens); }
float* KeptOf(const ProductInput& input) {
  return input.IsPrepared() && input.keep_prepared ? input.prepared : nullptr;
}

}  // namespace

// The kernel that computes the input (norm, SwiGLU) also rounds it to the type that is multiplied.
Status CudaProducts::Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks) {
  DUO_CHECK(input.norm == nullptr || input.up == nullptr, "an input cannot have both norm and up");
  const int64_t n_tokens = input.n_tokens, n_in = input.n_in;
  const bool library = n_tokens > kFewTokens && std::all_of(tasks.begin(), tasks.end(), [&](const LinearTask& task) {
                         return CudaMatmul::Takes(compute, n_in, task.weight.n_out);
                       });
  if (!library) return LinearFewTokens(compute, input, tasks);
  if (compute == ComputeType::kInt8) return LinearInt8(input, tasks);
  if (compute == ComputeType::kF32) {
    if (!input.IsPrepared()) return LinearFloats<float>(compute, input.x, n_tokens, n_in, tasks);
    DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input), {.floats = input.prepared}));
    return LinearFloats<float>(compute, input.prepared, n_tokens, n_in, tasks);
  }
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(n_tokens * n_in * sizeof(uint16_t)));
  auto* rounded = reinterpret_cast<uint16_t*>(memory);
  DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input), {.floats = KeptOf(input), .rounded = rounded}));
  return LinearFloats<uint16_t>(compute, rounded, n_tokens, n_in, tasks);
}

Status CudaProducts::LinearFewTokens(ComputeType compute, const ProductInput& input,
                                     std::span<const LinearTask> tasks) {
  const auto multiply = [&](const float* x, int64_t begin, int64_t n) {
    std::vector<CudaGemvTask> list;
    for (const LinearTask& task : tasks) {
      list.push_back({task.weight, task.bias, task.out + begin * task.weight.n_out, task.accumulate});
    }
    return RunCudaGemv(stream_, {.tasks = list, .x = x, .n_tokens = n, .round_x = compute == ComputeType::kBF16});
  };
  if (compute != ComputeType::kInt8) {
    if (!input.IsPrepared()) return multiply(input.x, 0, input.n_tokens);
    DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input), {.floats = input.prepared}));
    return multiply(input.prepared, 0, input.n_tokens);
  }
  // Some tokens at a time, because there may be many: this path also handles shapes that the library does not take.
  for (int64_t begin = 0; begin < input.n_tokens; begin += kFewTokens) {
    const int64_t n = std::min(kFewTokens, input.n_tokens - begin);
    DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(n * input.n_in * sizeof(float)));
    auto* grid = reinterpret_cast<float*>(memory);
    float* kept = KeptOf(input) == nullptr ? nullptr : KeptOf(input) + begin * input.n_in;
    DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input, begin, n), {.floats = kept, .grid = grid}));
    DUO_RETURN_IF_ERROR(multiply(grid, begin, n));
  }
  return OkStatus();
}

Status CudaProducts::LinearInt8(const ProductInput& input, std::span<const LinearTask> tasks) {
  const int64_t n_tokens = input.n_tokens, n_in = input.n_in;
  const size_t scale_bytes = RoundUp(n_tokens * sizeof(float), 256);
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(scale_bytes + n_tokens * n_in));
  auto* scale = reinterpret_cast<float*>(memory);
  auto* codes = reinterpret_cast<int8_t*>(memory + scale_bytes);
  DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input), {.floats = KeptOf(input), .codes = codes, .scale = scale}));
  for (const LinearTask& task : tasks) {
    const int64_t n_out = task.weight.n_out;
    DUO_ASSIGN_OR_RETURN(uint8_t * sums, sums_.Get(n_tokens * n_out * sizeof(int32_t)));
    DUO_RETURN_IF_ERROR(matmul_->Run({.type = ComputeType::kInt8,
                                      .x = codes,
                                      .w = task.weight.data,
                                      .n_tokens = n_tokens,
                                      .n_in = n_in,
                                      .n_out = n_out,
                                      .out = sums,
                                      .out_stride = n_out,
                                      .accumulate = false}));
    DUO_RETURN_IF_ERROR(CudaScaleSums(stream_, {.sums = reinterpret_cast<const int32_t*>(sums),
                                                .x_scale = scale,
                                                .w_scale = task.weight.scale,
                                                .bias = task.bias,
                                                .n_tokens = n_tokens,
                                                .n_out = n_out,
                                                .out = task.out,
                                                .accumulate = task.accumulate ? 1 : 0}));
  }
  return OkStatus();
}

template <class T>
Status CudaProducts::LinearFloats(ComputeType type, const T* x, int64_t n_tokens, int64_t n_in,
                                  std::span<const LinearTask> tasks) {
  constexpr DType kSame = sizeof(T) == sizeof(float) ? DType::kF32 : DType::kBF16;
  for (const LinearTask& task : tasks) {
    const MatrixView& w = task.weight;
    if (task.bias != nullptr) {
      DUO_RETURN_IF_ERROR(CudaAddBias(stream_, {.bias = task.bias,
                                                .n_tokens = n_tokens,
                                                .n_out = w.n_out,
                                                .out = task.out,
                                                .accumulate = task.accumulate ? 1 : 0}));
    }
    CudaProduct product{.type = type,
                        .x = x,
                        .w = w.data,
                        .n_tokens = n_tokens,
                        .n_in = n_in,
                        .n_out = w.n_out,
                        .out = task.out,
                        .out_stride = w.n_out,
                        .accumulate = task.accumulate || task.bias != nullptr};
    if (w.dtype == kSame) {
      DUO_RETURN_IF_ERROR(matmul_->Run(product));
      continue;
    }
    const size_t row_bytes = n_in * sizeof(T);
    const int64_t step = CudaPanelRows(row_bytes);
    const int64_t most = std::min(step, w.n_out);
    DUO_ASSIGN_OR_RETURN(uint8_t * panel, panel_.Get(most * row_bytes));
    for (int64_t row = 0; row < w.n_out; row += step) {
      const int64_t end = std::min(w.n_out, row + step);
      DUO_RETURN_IF_ERROR(CudaWidenRows(stream_, w, row, end, reinterpret_cast<T*>(panel)));
      product.w = panel;
      product.n_out = end - row;
      product.out = task.out + row;
      DUO_RETURN_IF_ERROR(matmul_->Run(product));
    }
  }
  return OkStatus();
}

uint64_t CudaProducts::MaxScratchBytes(const CallBounds& bounds) {
  const uint64_t tokens = bounds.n_tokens, few = std::min<uint64_t>(tokens, kFewTokens);
  const uint64_t widest = bounds.widest_input;
  const bool int8 = bounds.compute == ComputeType::kInt8, floats = bounds.compute == ComputeType::kF32;
  const uint64_t rounded = int8     ? std::max(tokens * (widest + sizeof(float)) + 256, few * widest * sizeof(float))
                           : floats ? 0
                                    : tokens * widest * sizeof(uint16_t);
  const uint64_t sums = int8 ? bounds.max_outputs * sizeof(int32_t) : 0;
  const bool same = bounds.weights == (floats ? DType::kF32 : DType::kBF16);
  const uint64_t bytes = floats ? sizeof(float) : sizeof(uint16_t);
  const uint64_t panel = same || int8 ? 0
                                      : std::min(kCudaPanelBytes + kInt4Rows * widest * bytes,
                                                 static_cast<uint64_t>(bounds.largest_matrix) * bytes);
  return rounded + sums + panel;
}

}  // namespace duo
