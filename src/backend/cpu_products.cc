#include "backend/cpu_products.h"

#include <algorithm>
#include <vector>

#include "backend/cpu_team.h"
#include "base/align.h"
#include "base/bf16.h"
#include "base/check.h"
#include "base/parallel.h"
#include "kernels/weight_codes.h"

namespace duo {
namespace {

// One thread does a product of few tokens with up to this many weights. Waking the others would cost more.
constexpr int64_t kSerialWeights = 1 << 15;
// Long runs of memory are read faster than short ones: 40 GB/s with 2 MiB, 37 GB/s with 256 KiB (bf16, two Zen 4
// cores).
constexpr int64_t kGemvBlockBytes = 2 << 20;

// Up to this many tokens, a product reads each weight once, row by row. With more tokens it calls the library for
// matrix products. Measured on two Zen 4 cores with 64 Mi weights of bf16, for 4 / 8 / 16 tokens: 5.2 / 7.2 / 15 ms,
// and 8.5 / 9.4 / 11.5 ms with the library. The limit is higher for bf16 products with quantised weights, because the
// library needs these converted first. It is also higher with f32: up to the limit, a token's result must not depend on
// the number of tokens that are computed together.
constexpr int64_t kFewTokens = 8;
constexpr int64_t kMaxFewTokens = 16;

int64_t FewTokensLimit(ComputeType compute, std::span<const LinearTask> tasks) {
  if (compute == ComputeType::kF32) return kMaxFewTokens;
  const DType type = tasks.front().weight.dtype;
  return compute == ComputeType::kBF16 && (type == DType::kI8 || type == DType::kU8) ? kMaxFewTokens : kFewTokens;
}

/// Below this level int8 products are not faster than products of floats.
bool HasInt8Products(Isa isa) { return isa >= Isa::kAvx512Vnni; }

/// The input of a product of few tokens, and the kernels that multiply it.
struct FewTokens {
  const DenseKernels& dense;
  const Gemv4Kernels& gemv4;
  TokenRows rows;                      // rounded for the compute type
  const uint8_t* converted = nullptr;  // the same tokens for Int4Product or Int8PairsProduct, or null
};

// Rows [begin, end) of a task's product. PickProduct chooses one of them.
using Product = void (*)(const FewTokens& few, const LinearTask& task, int64_t begin, int64_t end);

void Int4Product(const FewTokens& few, const LinearTask& task, int64_t begin, int64_t end) {
  const int64_t n_tokens = few.rows.n_tokens, n_in = few.rows.n_in;
  // Two groups of outputs at a time, so that their weights are still in the CPU's cache for the other tokens.
  const int64_t step = n_tokens == 1 ? end - begin : 2 * kInt4Rows;
  for (int64_t row = begin; row < end; row += step) {
    for (int64_t t = 0; t < n_tokens; ++t) {
      few.gemv4.run({.w = static_cast<const uint8_t*>(task.weight.data),
                     .n_in = n_in,
                     .row_begin = row,
                     .row_end = std::min(end, row + step),
                     .x = few.converted + t * Gemv4PreparedBytes(n_in),
                     .bias = task.bias,
                     .y = task.out + t * task.weight.n_out,
                     .accumulate = task.accumulate ? 1 : 0});
    }
  }
}

void Int8PairsProduct(const FewTokens& few, const LinearTask& task, int64_t begin, int64_t end) {
  few.dense.gemv8.run({.w = static_cast<const int8_t*>(task.weight.data),
                       .w_scale = task.weight.scale,
                       .n_in = few.rows.n_in,
                       .row_begin = begin,
                       .row_end = end,
                       .x = few.converted,
                       .n_tokens = few.rows.n_tokens,
                       .bias = task.bias,
                       .y = task.out,
                       .y_stride = task.weight.n_out,
                       .accumulate = task.accumulate ? 1 : 0});
}

void GemvProduct(const FewTokens& few, const LinearTask& task, int64_t begin, int64_t end) {
  few.dense.gemv({.w = task.weight.data,
                  .w_type = task.weight.dtype,
                  .w_scale = task.weight.scale,
                  .n_in = few.rows.n_in,
                  .row_begin = begin,
                  .row_end = end,
                  .x = few.rows.x,
                  .n_tokens = few.rows.n_tokens,
                  .bias = task.bias,
                  .y = task.out,
                  .y_stride = task.weight.n_out,
                  .accumulate = task.accumulate ? 1 : 0});
}

/// `pairs`: whether products with int8 weights use Int8PairsProduct.
Product PickProduct(DType type, bool pairs) {
  if (type == DType::kU8) return Int4Product;
  return type == DType::kI8 && pairs ? Int8PairsProduct : GemvProduct;
}

bool AnyWeights(std::span<const LinearTask> tasks, DType type) {
  return std::any_of(tasks.begin(), tasks.end(), [&](const LinearTask& task) { return task.weight.dtype == type; });
}

/// One thread's piece of work: rows [begin, end) of a task's weights.
struct RowBlock {
  Product product;
  const LinearTask* task;
  int64_t begin, end;
};

/// Rows of a block: at most 2 MiB of weights, and at least 8 rows (int4: 16). There are enough blocks for every thread.
int64_t BlockRows(const MatrixView& weight, int n_threads) {
  const bool int4 = weight.dtype == DType::kU8;
  const int64_t row_bytes = int4 ? static_cast<int64_t>(Int4BlockBytes(weight.n_in)) / kInt4Rows
                                 : weight.n_in * static_cast<int64_t>(DTypeBytes(weight.dtype));
  const int64_t per_thread = DivideUp(weight.n_out, n_threads * 4), multiple = int4 ? kInt4Rows : 8;
  return std::max<int64_t>(multiple, std::min(per_thread, kGemvBlockBytes / row_bytes) / multiple * multiple);
}

std::vector<RowBlock> CutIntoBlocks(std::span<const LinearTask> tasks, int n_threads, bool pairs) {
  std::vector<RowBlock> blocks;
  for (const LinearTask& task : tasks) {
    const Product product = PickProduct(task.weight.dtype, pairs);
    const int64_t rows = BlockRows(task.weight, n_threads), n_out = task.weight.n_out;
    for (int64_t begin = 0; begin < n_out; begin += rows) {
      blocks.push_back({product, &task, begin, std::min(n_out, begin + rows)});
    }
  }
  return blocks;
}

}  // namespace

Status CpuProducts::Linear(ComputeType compute, const TokenRows& input, std::span<const LinearTask> tasks) {
  const bool few = input.n_tokens <= FewTokensLimit(compute, tasks);
  return few ? LinearFewTokens(compute, input, tasks) : LinearManyTokens(compute, input, tasks);
}

// Decode: every weight is read once. All products of the group share one parallel region (one barrier).
Status CpuProducts::LinearFewTokens(ComputeType compute, const TokenRows& input, std::span<const LinearTask> tasks) {
  const bool exact = compute == ComputeType::kF32;
  FewTokens few{.dense = dense_, .gemv4 = exact ? dense_.gemv4_exact : dense_.gemv4, .rows = input};
  DUO_ASSIGN_OR_RETURN(few.rows.x, RoundedFloats(compute, input));
  const bool int4 = AnyWeights(tasks, DType::kU8), int8 = AnyWeights(tasks, DType::kI8);
  DUO_CHECK(!(int4 && int8), "the matrices of a layer must have the same quantised type");
  const bool pairs = input.n_tokens > 1 && !exact && dense_.gemv8.run != nullptr;
  if (int4) {
    DUO_ASSIGN_OR_RETURN(few.converted, Convert(few.gemv4.prepare, few.rows, Gemv4PreparedBytes(input.n_in)));
  } else if (int8 && pairs) {
    DUO_ASSIGN_OR_RETURN(few.converted, Convert(dense_.gemv8.prepare, few.rows, Gemv8PreparedBytes(input.n_in)));
  }
  int64_t n_weights = 0;
  for (const LinearTask& task : tasks) n_weights += task.weight.n_out * input.n_in;
  const std::vector<RowBlock> blocks = CutIntoBlocks(tasks, n_threads_, pairs);
  ParallelFor(n_weights <= kSerialWeights ? 1 : n_threads_, std::ssize(blocks), [&](int64_t b, int) {
    const RowBlock& block = blocks[b];
    block.product(few, *block.task, block.begin, block.end);
  });
  return OkStatus();
}

Status CpuProducts::LinearManyTokens(ComputeType compute, const TokenRows& input, std::span<const LinearTask> tasks) {
  DUO_ASSIGN_OR_RETURN(const LibraryInput x, RoundForLibrary(compute, input));
  for (const LinearTask& task : tasks) {
    DUO_RETURN_IF_ERROR(gemm_.Run({.x = x.values,
                                   .x_type = x.type,
                                   .x_scale = x.scale,
                                   .n_tokens = input.n_tokens,
                                   .n_in = input.n_in,
                                   .w = task.weight.data,
                                   .w_type = task.weight.dtype,
                                   .w_scale = task.weight.scale,
                                   .n_out = task.weight.n_out,
                                   .bias = task.bias,
                                   .out = task.out,
                                   .out_stride = task.weight.n_out,
                                   .accumulate = task.accumulate}));
  }
  return OkStatus();
}

Result<CpuProducts::LibraryInput> CpuProducts::RoundForLibrary(ComputeType compute, const TokenRows& input) {
  switch (compute) {
    case ComputeType::kF32: return LibraryInput{.values = input.x};
    case ComputeType::kBF16: return RoundToBf16(input);
    case ComputeType::kInt8: break;
  }
  if (HasInt8Products(isa_)) return RoundToInt8(input);
  DUO_ASSIGN_OR_RETURN(const float* grid, OnInt8Grid(input));
  return LibraryInput{.values = grid};
}

Result<CpuProducts::LibraryInput> CpuProducts::RoundToBf16(const TokenRows& input) {
  const int64_t n = input.n_tokens * input.n_in;
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(n * sizeof(bf16)));
  auto* rounded = reinterpret_cast<bf16*>(memory);
  ParallelBlocks(TeamFor(n, n_threads_), n, kElementBlock, [&](int64_t begin, int64_t end) {
    dense_.f32_to_bf16(input.x + begin, rounded + begin, end - begin);
  });
  return LibraryInput{.values = rounded, .type = DType::kBF16};
}

Result<CpuProducts::LibraryInput> CpuProducts::RoundToInt8(const TokenRows& input) {
  const int64_t n_in = input.n_in, n = input.n_tokens * n_in;
  const size_t scale_bytes = RoundUp(input.n_tokens * sizeof(float), kCacheLineBytes);
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(scale_bytes + n));
  auto* scale = reinterpret_cast<float*>(memory);
  auto* values = reinterpret_cast<int8_t*>(memory + scale_bytes);
  ParallelFor(TeamFor(n, n_threads_), input.n_tokens,
              [&](int64_t t, int) { QuantizeInt8(input.x + t * n_in, n_in, values + t * n_in, scale + t); });
  return LibraryInput{.values = values, .type = DType::kI8, .scale = scale};
}

Result<const float*> CpuProducts::RoundedFloats(ComputeType compute, const TokenRows& input) {
  switch (compute) {
    case ComputeType::kF32: return input.x;
    case ComputeType::kBF16: break;
    case ComputeType::kInt8: return OnInt8Grid(input);
  }
  const int64_t n = input.n_tokens * input.n_in;
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(n * sizeof(float)));
  auto* rounded = reinterpret_cast<float*>(memory);
  dense_.round_to_bf16(input.x, rounded, n);
  return rounded;
}

Result<const float*> CpuProducts::OnInt8Grid(const TokenRows& input) {
  const int64_t n_in = input.n_in, n = input.n_tokens * n_in;
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(n * (sizeof(float) + 1)));
  auto* grid = reinterpret_cast<float*>(memory);
  auto* values = reinterpret_cast<int8_t*>(grid + n);
  ParallelFor(TeamFor(n, n_threads_), input.n_tokens, [&](int64_t t, int) {
    float scale;
    QuantizeInt8(input.x + t * n_in, n_in, values + t * n_in, &scale);
    dense_.widen(values + t * n_in, DType::kI8, grid + t * n_in, n_in);
    for (int64_t i = 0; i < n_in; ++i) grid[t * n_in + i] *= scale;
  });
  return grid;
}

Result<const uint8_t*> CpuProducts::Convert(void (*convert)(const float*, int64_t, void*), const TokenRows& input,
                                            size_t token_bytes) {
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, converted_.Get(token_bytes * input.n_tokens));
  ParallelFor(TeamFor(input.n_tokens * input.n_in, n_threads_), input.n_tokens,
              [&](int64_t t, int) { convert(input.x + t * input.n_in, input.n_in, memory + t * token_bytes); });
  return memory;
}

uint64_t CpuProducts::MaxScratchBytes(const CallBounds& bounds) const {
  // With bf16, many tokens are rounded to bf16, and few tokens to floats that hold bf16 values. With int8 there are two
  // forms: int8 numbers and a scale per token, or floats that hold their values and the numbers they are made from.
  const bool int8 = bounds.compute == ComputeType::kInt8, grid = int8 && !HasInt8Products(isa_);
  const uint64_t inputs = bounds.n_tokens * bounds.widest_input;
  const int64_t n_few = std::min(bounds.n_tokens, kMaxFewTokens);
  const uint64_t few_inputs = n_few * bounds.widest_input;
  const uint64_t rounded =
      std::max(inputs * (grid ? sizeof(float) + 1 : sizeof(bf16)) + bounds.n_tokens * sizeof(float),
               few_inputs * (int8 ? sizeof(float) + 1 : sizeof(float))) +
      n_few * Gemv4PreparedBytes(bounds.widest_input) + 2 * kCacheLineBytes;
  const DType x_type = bounds.compute == ComputeType::kF32 || grid ? DType::kF32 : int8 ? DType::kI8 : DType::kBF16;
  return rounded + GemmRunner::MaxScratchBytes(isa_, n_threads_, bounds.widest_input, x_type, bounds.weights,
                                               WeightLayout::kOutIn);
}

}  // namespace duo
