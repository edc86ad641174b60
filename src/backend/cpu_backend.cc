#include "backend/cpu_backend.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "backend/cpu_attention.h"
#include "backend/cpu_identify_ops.h"
#include "backend/cpu_memory.h"
#include "backend/cpu_meter.h"
#include "backend/cpu_products.h"
#include "backend/cpu_team.h"
#include "base/check.h"
#include "base/error.h"
#include "base/memory_info.h"
#include "base/parallel.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {
namespace {

class CpuBackend : public Backend {
 public:
  CpuBackend(Isa isa, int n_threads)
      : isa_(isa),
        n_threads_(n_threads),
        dense_(DenseKernelsFor(isa)),
        products_(n_threads, isa),
        attention_(n_threads, isa),
        identify_ops_(n_threads, isa),
        meter_(n_threads, isa) {}

  std::string Describe() const override {
    return fmt::format("cpu, {}, {} thread{}", IsaName(isa_), n_threads_, n_threads_ == 1 ? "" : "s");
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
    ParallelFor(team, std::ssize(tasks), [&](int64_t i, int) {
      const CopyTask& task = tasks[i];
      if (task.bytes != 0) std::memcpy(task.dst, task.src, task.bytes);
    });
  }

  uint64_t MaxScratchBytes(const CallBounds& bounds) const override {
    return products_.MaxScratchBytes(bounds) + attention_.MaxScratchBytes(bounds);
  }

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
    const ScopedTime timer(&meter_.sums()->attention_s);
    return attention_.Decode(shape, heads);
  }
  Status PrefillAttention(const AttentionShape& shape, std::span<const PrefillHead> heads) override {
    const ScopedTime timer(&meter_.sums()->attention_s);
    return attention_.Prefill(shape, heads);
  }

  // Every operation runs at once, so nothing is held back.
  void BeginLayer(int) override {}
  Status EndLayer() override { return OkStatus(); }

  IdentifyOps* identify_ops() override { return &identify_ops_; }
  Meter* meter() override { return &meter_; }

 private:
  /// Returns the input of the product: x, or the result of the norm or of SwiGLU.
  const float* Prepare(const ProductInput& input);
  void Rotate(float* x, int64_t n_tokens, int n_heads, int head_dim);

  Isa isa_;
  int n_threads_;
  const DenseKernels& dense_;
  CpuProducts products_;
  CpuAttention attention_;
  CpuIdentifyOps identify_ops_;
  CpuMeter meter_;
  const float* cos_ = nullptr;  // from SetRotations
  const float* sin_ = nullptr;
};

void CpuBackend::Embed(const MatrixView& table, std::span<const int32_t> ids, float* out) {
  const int64_t dim = table.n_in;
  const auto* rows = static_cast<const uint8_t*>(table.data);
  const size_t row_bytes = dim * DTypeBytes(table.dtype);
  for (size_t t = 0; t < ids.size(); ++t) {
    const int32_t id = ids[t];
    float* to = out + t * dim;
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
  const TokenRows prepared{.x = Prepare(input), .n_tokens = input.n_tokens, .n_in = input.n_in};
  const ScopedTime timer(&meter_.sums()->linear_s);
  return products_.Linear(compute, prepared, tasks);
}

void CpuBackend::Rotate(float* x, int64_t n_tokens, int n_heads, int head_dim) {
  const int64_t stride = int64_t{n_heads} * head_dim;
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
    return BadOption("n_threads", options.n_threads, "0..1024 (0 = all available cores)");
  }
  DUO_ASSIGN_OR_RETURN(const Isa isa, SelectIsa(std::getenv("DUO_ISA")));
  const int n_threads = StartThreads(options.n_threads == 0 ? AvailableThreads() : options.n_threads);
  return BackendPtr(new CpuBackend(isa, n_threads));
}

}  // namespace duo
