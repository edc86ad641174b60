#include "backend/cpu_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "backend/cpu_attention.h"
#include "backend/cpu_identify_ops.h"
#include "backend/cpu_measure.h"
#include "backend/cpu_memory.h"
#include "backend/cpu_team.h"
#include "base/align.h"
#include "base/bad_option.h"
#include "base/bf16.h"
#include "base/check.h"
#include "base/memory_info.h"
#include "base/parallel.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel_table.h"
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

int64_t MostFewTokens(ComputeType compute, std::span<const LinearTask> tasks) {
  if (compute == ComputeType::kF32) return kMaxFewTokens;
  const DType type = tasks.front().weight.dtype;
  return compute == ComputeType::kBF16 && (type == DType::kI8 || type == DType::kU8) ? kMaxFewTokens : kFewTokens;
}

class CpuBackend : public Backend {
 public:
  CpuBackend(Isa isa, int n_threads)
      : isa_(isa),
        n_threads_(n_threads),
        dense_(DenseKernelsFor(isa)),
        gemm_(n_threads, isa),
        attention_(n_threads, isa),
        identify_ops_(n_threads, isa),
        ceilings_(n_threads, isa) {}

  std::string Describe() const override {
    return std::string("cpu, ") + IsaName(isa_) + ", " + std::to_string(n_threads_) +
           (n_threads_ == 1 ? " thread" : " threads");
  }
  int n_threads() const override { return n_threads_; }

  Result<DeviceMemoryPtr> Allocate(size_t bytes) override { return AllocateHostMemory(bytes); }
  Result<DeviceMemoryPtr> Reserve(size_t bytes) override { return ReserveHostMemory(bytes); }
  size_t CommitBytes() const override { return 1; }
  uint64_t AvailableBytes() const override { return AvailableMemoryBytes(); }
  Result<DeviceMemoryPtr> Upload(const void*, size_t) override { return DeviceMemoryPtr(); }
  Status ToHost(const void* src, void* host_dst, size_t bytes) override {
    std::memcpy(host_dst, src, bytes);
    return OkStatus();
  }
  void FromHost(const void* host_src, void* dst, size_t bytes) override { std::memcpy(dst, host_src, bytes); }

  void Copy(std::span<const CopyTask> tasks) override {
    size_t total = 0;
    for (const CopyTask& task : tasks) total += task.bytes;
    const int team = total < (size_t{1} << 18) ? 1 : n_threads_;
    ParallelFor(team, static_cast<int64_t>(tasks.size()), [&](int64_t i, int) {
      const CopyTask& task = tasks[static_cast<size_t>(i)];
      if (task.bytes != 0) std::memcpy(task.dst, task.src, task.bytes);
    });
  }

  uint64_t MaxScratchBytes(const CallBounds& bounds) const override;

  void Embed(const MatrixView& table, std::span<const int32_t> ids, float* out) override;
  void RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* out) override;
  Status Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks) override;
  void SetRotations(const float* host_cos, const float* host_sin, int64_t, int) override {
    cos_ = host_cos;
    sin_ = host_sin;
  }
  void Rope(float* q, int n_heads, float* k, int n_kv_heads, int64_t n_tokens, int head_dim) override {
    Rotate(q, n_tokens, n_heads, head_dim);
    Rotate(k, n_tokens, n_kv_heads, head_dim);
  }
  void StoreRows(std::span<const StoreTask> tasks, int head_dim, KvType type) override {
    attention_.StoreRows(tasks, head_dim, type);
  }
  void CopyRows(std::span<const CopyRowsTask> tasks, int head_dim, KvType type) override {
    attention_.CopyRows(tasks, head_dim, type);
  }
  Status DecodeAttention(const AttentionShape& shape, std::span<const DecodeHead> heads) override {
    const ScopedTime timer(&times_.attention_s);
    return attention_.Decode(shape, heads);
  }
  Status PrefillAttention(const AttentionShape& shape, std::span<const PrefillHead> heads) override {
    const ScopedTime timer(&times_.attention_s);
    return attention_.Prefill(shape, heads);
  }

  // Every operation runs at once, so nothing is held back.
  void BeginPart(int) override {}
  Status EndPart() override { return OkStatus(); }

  IdentifyOps* identify_ops() override { return &identify_ops_; }

  BackendTimes times() const override { return times_; }
  void ResetTimes() override { times_ = {}; }
  bool TimesAreFree() const override { return true; }
  Result<double> MeasureReadBandwidth() override { return ceilings_.MeasureReadBandwidth(); }
  Result<double> MeasureGemm(ComputeType compute) override { return ceilings_.MeasureGemm(compute); }

 private:
  /// Returns the input of the product: x, or the result of the norm or of SwiGLU.
  const float* Prepare(const ProductInput& input);
  void Rotate(float* x, int64_t n_tokens, int n_heads, int head_dim);
  /// x [n_tokens, n_in], quantised with one scale per token. Valid until the next call.
  struct Int8Tokens {
    const void* values;
    DType type;          // kI8; kF32 without scales if int8 products are not faster on this CPU
    const float* scale;  // [n_tokens]
  };
  Result<Int8Tokens> RoundToInt8(const float* x, int64_t n_tokens, int64_t n_in);
  /// Rounds x to the same int8 values, returned as floats (value * scale).
  Result<const float*> OnInt8Grid(const float* x, int64_t n_tokens, int64_t n_in);
  Status LinearFewTokens(ComputeType compute, const float* x, int64_t n_tokens, int64_t n_in,
                         std::span<const LinearTask> tasks);
  /// Converts x to the layout that a product with quantised weights needs. Tokens are `token_bytes` apart.
  Result<const uint8_t*> Prepare(void (*prepare)(const float*, int64_t, void*), const float* x, int64_t n_tokens,
                                 int64_t n_in, size_t token_bytes);

  Isa isa_;
  int n_threads_;
  const DenseKernels& dense_;
  GemmRunner gemm_;
  CpuAttention attention_;
  CpuIdentifyOps identify_ops_;
  CpuCeilings ceilings_;
  Scratch rounded_;             // x of Linear in bf16 or int8
  Scratch prepared_;            // x of a product of few tokens with int4 or int8 weights
  const float* cos_ = nullptr;  // from SetRotations
  const float* sin_ = nullptr;
  BackendTimes times_;
};

uint64_t CpuBackend::MaxScratchBytes(const CallBounds& bounds) const {
  // With bf16, many tokens are rounded to bf16, and few tokens to floats that hold bf16 values. With int8 there are two
  // forms: int8 numbers and a scale per token, or floats that hold their values and the numbers they are made from.
  const bool int8 = bounds.compute == ComputeType::kInt8, grid = int8 && isa_ < Isa::kAvx512Vnni;
  const auto inputs = static_cast<uint64_t>(bounds.n_tokens * bounds.widest_input);
  const int64_t n_few = std::min(bounds.n_tokens, kMaxFewTokens);
  const auto few_inputs = static_cast<uint64_t>(n_few * bounds.widest_input);
  const uint64_t rounded = std::max(inputs * (grid ? sizeof(float) + 1 : sizeof(bf16)) +
                                        static_cast<uint64_t>(bounds.n_tokens) * sizeof(float),
                                    few_inputs * (int8 ? sizeof(float) + 1 : sizeof(float))) +
                           static_cast<uint64_t>(n_few) * Gemv4PreparedBytes(bounds.widest_input) + 2 * kCacheLineBytes;
  const DType x_type = bounds.compute == ComputeType::kF32 || grid ? DType::kF32 : int8 ? DType::kI8 : DType::kBF16;
  return GemmRunner::MaxScratchBytes(isa_, n_threads_, bounds.widest_input, x_type, bounds.weights,
                                     WeightLayout::kOutIn) +
         rounded + attention_.MaxScratchBytes(bounds);
}

void CpuBackend::Embed(const MatrixView& table, std::span<const int32_t> ids, float* out) {
  const int64_t dim = table.n_in;
  const auto* rows = static_cast<const uint8_t*>(table.data);
  const size_t row_bytes = static_cast<size_t>(dim) * DTypeBytes(table.dtype);
  for (size_t t = 0; t < ids.size(); ++t) {
    const auto id = static_cast<size_t>(ids[t]);
    float* to = out + static_cast<int64_t>(t) * dim;
    dense_.widen(rows + id * row_bytes, table.dtype, to, dim);
    if (table.scale != nullptr) {
      for (int64_t i = 0; i < dim; ++i) to[i] *= table.scale[id];
    }
  }
}

void CpuBackend::RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* out) {
  const int64_t block = std::max<int64_t>(1, kElementBlock / dim);
  ParallelBlocks(TeamFor(n_rows * dim, n_threads_), n_rows, block, [&](int64_t begin, int64_t end) {
    dense_.rms_norm({.x = x + begin * dim,
                     .x_stride = dim,
                     .weight = weight,
                     .eps = eps,
                     .n_rows = end - begin,
                     .dim = dim,
                     .out = out + begin * dim,
                     .out_stride = dim});
  });
}

const float* CpuBackend::Prepare(const ProductInput& input) {
  DUO_CHECK(input.norm == nullptr || input.up == nullptr, "an input cannot have both norm and up");
  if (input.norm != nullptr) RmsNorm(input.x, input.norm, input.eps, input.n_tokens, input.n_in, input.prepared);
  if (input.up != nullptr) {
    const int64_t n = input.n_tokens * input.n_in;
    ParallelBlocks(TeamFor(n, n_threads_), n, kElementBlock, [&](int64_t begin, int64_t end) {
      dense_.swiglu({.gate = input.x + begin, .up = input.up + begin, .n = end - begin, .out = input.prepared + begin});
    });
  }
  return input.IsPrepared() ? input.prepared : input.x;
}

Status CpuBackend::Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks) {
  const float* x = Prepare(input);
  const int64_t n_tokens = input.n_tokens, n_in = input.n_in;
  const ScopedTime timer(&times_.linear_s);
  if (n_tokens <= MostFewTokens(compute, tasks)) return LinearFewTokens(compute, x, n_tokens, n_in, tasks);
  const void* multiplied = x;
  DType input_type = DType::kF32;
  if (compute == ComputeType::kBF16) {
    const int64_t n = n_tokens * n_in;
    DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(static_cast<size_t>(n) * sizeof(bf16)));
    auto* rounded = reinterpret_cast<bf16*>(memory);
    ParallelBlocks(TeamFor(n, n_threads_), n, kElementBlock,
                   [&](int64_t begin, int64_t end) { dense_.f32_to_bf16(x + begin, rounded + begin, end - begin); });
    multiplied = rounded;
    input_type = DType::kBF16;
  }
  const float* scales = nullptr;
  if (compute == ComputeType::kInt8) {
    DUO_ASSIGN_OR_RETURN(const Int8Tokens tokens, RoundToInt8(x, n_tokens, n_in));
    multiplied = tokens.values;
    input_type = tokens.type;
    scales = tokens.scale;
  }
  for (const LinearTask& task : tasks) {
    const int64_t n_out = task.weight.n_out;
    DUO_RETURN_IF_ERROR(gemm_.Run({.x = multiplied,
                                   .x_type = input_type,
                                   .x_scale = scales,
                                   .n_tokens = n_tokens,
                                   .n_in = n_in,
                                   .w = task.weight.data,
                                   .w_type = task.weight.dtype,
                                   .w_scale = task.weight.scale,
                                   .n_out = n_out,
                                   .bias = task.bias,
                                   .out = task.out,
                                   .out_stride = n_out,
                                   .accumulate = task.accumulate}));
  }
  return OkStatus();
}

Result<CpuBackend::Int8Tokens> CpuBackend::RoundToInt8(const float* x, int64_t n_tokens, int64_t n_in) {
  if (isa_ < Isa::kAvx512Vnni) {
    DUO_ASSIGN_OR_RETURN(const float* grid, OnInt8Grid(x, n_tokens, n_in));
    return Int8Tokens{grid, DType::kF32, nullptr};
  }
  const size_t scale_bytes = RoundUp(static_cast<size_t>(n_tokens) * sizeof(float), kCacheLineBytes);
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(scale_bytes + static_cast<size_t>(n_tokens * n_in)));
  auto* scale = reinterpret_cast<float*>(memory);
  auto* values = reinterpret_cast<int8_t*>(memory + scale_bytes);
  ParallelFor(TeamFor(n_tokens * n_in, n_threads_), n_tokens,
              [&](int64_t t, int) { QuantizeInt8(x + t * n_in, n_in, values + t * n_in, scale + t); });
  return Int8Tokens{values, DType::kI8, scale};
}

Result<const float*> CpuBackend::OnInt8Grid(const float* x, int64_t n_tokens, int64_t n_in) {
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(static_cast<size_t>(n_tokens * n_in) * (sizeof(float) + 1)));
  auto* grid = reinterpret_cast<float*>(memory);
  auto* values = reinterpret_cast<int8_t*>(grid + n_tokens * n_in);
  ParallelFor(TeamFor(n_tokens * n_in, n_threads_), n_tokens, [&](int64_t t, int) {
    float scale;
    QuantizeInt8(x + t * n_in, n_in, values + t * n_in, &scale);
    dense_.widen(values + t * n_in, DType::kI8, grid + t * n_in, n_in);
    for (int64_t i = 0; i < n_in; ++i) grid[t * n_in + i] *= scale;
  });
  return grid;
}

Result<const uint8_t*> CpuBackend::Prepare(void (*prepare)(const float*, int64_t, void*), const float* x,
                                           int64_t n_tokens, int64_t n_in, size_t token_bytes) {
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, prepared_.Get(token_bytes * static_cast<size_t>(n_tokens)));
  ParallelFor(TeamFor(n_tokens * n_in, n_threads_), n_tokens,
              [&](int64_t t, int) { prepare(x + t * n_in, n_in, memory + static_cast<size_t>(t) * token_bytes); });
  return memory;
}

// Decode: every weight is read once. All products of the group share one parallel region (one barrier).
Status CpuBackend::LinearFewTokens(ComputeType compute, const float* x, int64_t n_tokens, int64_t n_in,
                                   std::span<const LinearTask> tasks) {
  const float* input = x;
  if (compute == ComputeType::kBF16) {
    const int64_t n = n_tokens * n_in;
    DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(static_cast<size_t>(n) * sizeof(float)));
    auto* rounded = reinterpret_cast<float*>(memory);
    dense_.round_to_bf16(x, rounded, n);
    input = rounded;
  }
  if (compute == ComputeType::kInt8) {
    DUO_ASSIGN_OR_RETURN(input, OnInt8Grid(x, n_tokens, n_in));
  }
  const Gemv4Kernels& gemv4 = compute == ComputeType::kF32 ? dense_.gemv4_exact : dense_.gemv4;
  const bool can_pair = n_tokens > 1 && compute != ComputeType::kF32 && dense_.gemv8.run != nullptr;
  const auto any = [&](DType type) {
    return std::any_of(tasks.begin(), tasks.end(), [&](const LinearTask& t) { return t.weight.dtype == type; });
  };
  DUO_CHECK(!(any(DType::kU8) && any(DType::kI8)), "the matrices of a layer must have the same quantised type");
  const uint8_t* prepared = nullptr;
  if (any(DType::kU8)) {
    DUO_ASSIGN_OR_RETURN(prepared, Prepare(gemv4.prepare, input, n_tokens, n_in, Gemv4PreparedBytes(n_in)));
  } else if (can_pair && any(DType::kI8)) {
    DUO_ASSIGN_OR_RETURN(prepared, Prepare(dense_.gemv8.prepare, input, n_tokens, n_in, Gemv8PreparedBytes(n_in)));
  }
  struct Block {
    size_t task;
    int64_t begin, end;
  };
  std::vector<Block> blocks;
  int64_t weights = 0;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const int64_t n_out = tasks[i].weight.n_out;
    const DType type = tasks[i].weight.dtype;
    const bool int4 = type == DType::kU8;
    const auto row_bytes =
        int4 ? static_cast<int64_t>(Int4BlockBytes(n_in)) / kInt4Rows : n_in * static_cast<int64_t>(DTypeBytes(type));
    // A block has at most 2 MiB of weights and at least 8 rows (int4: 16). There are enough blocks for every thread.
    const int64_t per_thread = DivideUp(n_out, n_threads_ * 4), multiple = int4 ? kInt4Rows : 8;
    const int64_t rows =
        std::max<int64_t>(multiple, std::min(per_thread, kGemvBlockBytes / row_bytes) / multiple * multiple);
    for (int64_t begin = 0; begin < n_out; begin += rows) blocks.push_back({i, begin, std::min(n_out, begin + rows)});
    weights += n_out * n_in;
  }
  const auto run_block = [&](const Block& block) {
    const LinearTask& task = tasks[block.task];
    const int accumulate = task.accumulate ? 1 : 0;
    const DType type = task.weight.dtype;
    const int64_t n_out = task.weight.n_out;
    if (type == DType::kU8) {
      // Two groups of outputs at a time, so that their weights are still in the CPU's cache for the other tokens.
      for (int64_t begin = block.begin; begin < block.end; begin += n_tokens == 1 ? block.end : 2 * kInt4Rows) {
        for (int64_t t = 0; t < n_tokens; ++t) {
          gemv4.run({.w = static_cast<const uint8_t*>(task.weight.data),
                     .n_in = n_in,
                     .row_begin = begin,
                     .row_end = n_tokens == 1 ? block.end : std::min(block.end, begin + 2 * kInt4Rows),
                     .x = prepared + static_cast<size_t>(t) * Gemv4PreparedBytes(n_in),
                     .bias = task.bias,
                     .y = task.out + t * n_out,
                     .accumulate = accumulate});
        }
      }
    } else if (type == DType::kI8 && can_pair) {
      dense_.gemv8.run({.w = static_cast<const int8_t*>(task.weight.data),
                        .w_scale = task.weight.scale,
                        .n_in = n_in,
                        .row_begin = block.begin,
                        .row_end = block.end,
                        .x = prepared,
                        .n_tokens = n_tokens,
                        .bias = task.bias,
                        .y = task.out,
                        .y_stride = n_out,
                        .accumulate = accumulate});
    } else {
      dense_.gemv({.w = task.weight.data,
                   .w_type = type,
                   .w_scale = task.weight.scale,
                   .n_in = n_in,
                   .row_begin = block.begin,
                   .row_end = block.end,
                   .x = input,
                   .n_tokens = n_tokens,
                   .bias = task.bias,
                   .y = task.out,
                   .y_stride = n_out,
                   .accumulate = accumulate});
    }
  };
  ParallelFor(weights <= kSerialWeights ? 1 : n_threads_, static_cast<int64_t>(blocks.size()),
              [&](int64_t b, int) { run_block(blocks[static_cast<size_t>(b)]); });
  return OkStatus();
}

void CpuBackend::Rotate(float* x, int64_t n_tokens, int n_heads, int head_dim) {
  const int64_t stride = static_cast<int64_t>(n_heads) * head_dim;
  const int64_t block = std::max<int64_t>(1, kElementBlock / stride);
  ParallelBlocks(TeamFor(n_tokens * stride, n_threads_), n_tokens, block, [&](int64_t begin, int64_t end) {
    dense_.rope({.x = x + begin * stride,
                 .x_stride = stride,
                 .n_tokens = end - begin,
                 .n_heads = n_heads,
                 .head_dim = head_dim,
                 .cos = cos_ + begin * (head_dim / 2),
                 .sin = sin_ + begin * (head_dim / 2)});
  });
}

}  // namespace

Result<BackendPtr> CreateCpuBackend(const BackendOptions& options) {
  if (options.n_threads < 0 || options.n_threads > 1024) {
    return BadOption("n_threads", std::to_string(options.n_threads), "0..1024 (0 = all available cores)");
  }
  DUO_ASSIGN_OR_RETURN(const Isa isa, SelectIsa(std::getenv("DUO_ISA")));
  const int n_threads = StartThreads(options.n_threads == 0 ? AvailableThreads() : options.n_threads);
  return BackendPtr(new CpuBackend(isa, n_threads));
}

}  // namespace duo
