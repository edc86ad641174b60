#include "backend/cuda_backend.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda_device.h"
#include "backend/cuda_identify_ops.h"
#include "backend/cuda_kept_status.h"
#include "backend/cuda_memory.h"
#include "backend/cuda_times.h"
#include "backend/cuda_upload.h"
#include "base/align.h"
#include "base/parallel.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul.h"

namespace duo {
namespace {

// Most tokens whose products read each weight once, row by row, instead of going through cuBLASLt.
constexpr int64_t kFewTokens = 8;
// CUDA does not say what its graphs take; one of ten launches has their arguments, some KiB each.
constexpr uint64_t kGraphBytes = uint64_t{8} << 20;
constexpr int kCopyMeasurePasses = 8;
#ifdef DUO_CUDA_ON_HOST
constexpr size_t kCopyMeasureBytes = size_t{1} << 20;
constexpr int64_t kGemmMeasure = 64;
#else
constexpr size_t kCopyMeasureBytes = size_t{256} << 20;
constexpr int64_t kGemmMeasure = 8192;
#endif

CudaProductType TypeOf(ComputeType compute) {
  switch (compute) {
    case ComputeType::kF32: return CudaProductType::kF32;
    case ComputeType::kBF16: return CudaProductType::kBF16;
    case ComputeType::kInt8: break;
  }
  return CudaProductType::kInt8;
}

class CudaBackend : public Backend {
 public:
  CudaBackend(std::unique_ptr<CudaDevice> device, std::unique_ptr<CudaAddressSpace> space,
              std::unique_ptr<CudaMatmul> matmul)
      : device_(std::move(device)),
        stream_(device_->stream()),
        space_(std::move(space)),
        matmul_(std::move(matmul)),
        times_(stream_) {}
  ~CudaBackend() override { cudaStreamSynchronize(stream_.get()); }

  std::string Describe() const override {
    return "cuda, " + device_->name() + ", " + std::to_string(device_->n_processors()) + " multiprocessors";
  }
  // Of the host, for what is done before weights go to the device.
  int n_threads() const override { return AvailableThreads(); }

  Result<DeviceMemoryPtr> Allocate(size_t bytes) override { return AllocateCudaMemory(bytes, stream_); }
  Result<DeviceMemoryPtr> Reserve(size_t bytes) override { return space_->Reserve(bytes); }
  size_t CommitBytes() const override { return space_->granularity(); }
  uint64_t AvailableBytes() const override { return FreeCudaBytes(); }
  Result<DeviceMemoryPtr> Upload(const void* host, size_t bytes) override;
  void Copy(std::span<const CopyTask> tasks) override {
    for (const CopyTask& t : tasks) {
      Keep(CudaStatus(cudaMemcpyAsync(t.dst, t.src, t.bytes, cudaMemcpyDeviceToDevice, stream_.get()), "copying"));
    }
  }
  Status ToHost(const void* src, void* host_dst, size_t bytes) override {
    DUO_RETURN_IF_ERROR(kept_.Take());
    DUO_RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(host_dst, src, bytes, cudaMemcpyDeviceToHost, stream_.get()),
                                   "copying to the host"));
    return CudaStatus(cudaStreamSynchronize(stream_.get()), "work on the device");
  }
  void FromHost(const void* host_src, void* dst, size_t bytes) override {
    Keep(CudaStatus(cudaMemcpyAsync(dst, host_src, bytes, cudaMemcpyHostToDevice, stream_.get()),
                    "copying to the device"));
  }
  uint64_t MaxScratchBytes(const CallBounds& bounds) const override;

  void Embed(const MatrixView& table, std::span<const int32_t> host_ids, float* out) override;
  void RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* out) override {
    Keep(CudaMakeRows(stream_, {.x = x, .n_rows = n_rows, .dim = dim, .norm = weight, .eps = eps}, {.floats = out}));
  }
  Status Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks) override;
  void SetRotations(const float* host_cos, const float* host_sin, int64_t n_tokens, int half_dim) override;
  void Rope(float* q, int n_heads, float* k, int n_kv_heads, int64_t n_tokens, int head_dim) override {
    Keep(RunCudaRope(stream_, {.q = q,
                               .k = k,
                               .n_tokens = n_tokens,
                               .n_heads = n_heads,
                               .n_kv_heads = n_kv_heads,
                               .head_dim = head_dim,
                               .cos = cos_,
                               .sin = sin_}));
  }
  void StoreRows(std::span<const StoreTask> tasks, int head_dim, KvType type) override;
  void CopyRows(std::span<const CopyRowsTask> tasks, int head_dim, KvType type) override;
  Status DecodeAttention(const AttentionShape& shape, std::span<const DecodeHead> heads) override;
  Status PrefillAttention(const AttentionShape& shape, std::span<const PrefillHead> heads) override;

  void BeginPart(int part) override { device_->graphs()->Begin(part); }
  void EndPart() override { Keep(device_->graphs()->End()); }

  IdentifyOps* identify_ops() override { return &identify_; }

  BackendTimes times() const override { return times_.Read(); }
  void ResetTimes() override { times_.Reset(); }
  Result<double> MeasureReadBandwidth() override;
  Result<double> MeasureGemm(ComputeType compute) override;

 private:
  /// Operations that return nothing leave their first error for the next one that returns a Status.
  void Keep(const Status& status) { kept_.Keep(status); }
  Status LinearFewTokens(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks);
  Status LinearInt8(const ProductInput& input, std::span<const LinearTask> tasks);
  /// x [n_tokens, n_in] and weights as T: bf16 or float.
  template <class T>
  Status LinearFloats(CudaProductType type, const T* x, int64_t n_tokens, int64_t n_in,
                      std::span<const LinearTask> tasks);

  std::unique_ptr<CudaDevice> device_;
  CudaStream stream_;
  std::unique_ptr<CudaAddressSpace> space_;
  std::unique_ptr<CudaMatmul> matmul_;
  mutable CudaTimes times_;
  CudaUploader uploader_{stream_};
  CudaScratch ids_{stream_};
  CudaScratch rotations_{stream_};
  CudaScratch rounded_{stream_};   // x of a product, in bf16, int8 or on int8's grid
  CudaScratch panel_{stream_};     // weights as bf16 or floats
  CudaScratch sums_{stream_};      // int32 results of a product
  CudaScratch states_{stream_};    // of a decode step's pieces
  CudaScratch counters_{stream_};  // likewise, zeros between calls
  CudaScratch measured_{stream_};  // what bandwidth is measured on
  const float* cos_ = nullptr;
  const float* sin_ = nullptr;
  CudaKeptStatus kept_;
  CudaIdentifyOps identify_{stream_, matmul_.get(), &kept_};
};

Result<DeviceMemoryPtr> CudaBackend::Upload(const void* host, size_t bytes) {
  DUO_ASSIGN_OR_RETURN(DeviceMemoryPtr memory, Allocate(bytes));
  DUO_RETURN_IF_ERROR(uploader_.Copy(host, memory->data(), bytes, n_threads()));
  return memory;
}

void CudaBackend::Embed(const MatrixView& table, std::span<const int32_t> host_ids, float* out) {
  const auto ids = ids_.Get(host_ids.size_bytes());
  if (!ids.ok()) return Keep(ids.status());
  FromHost(host_ids.data(), *ids, host_ids.size_bytes());
  Keep(CudaEmbed(stream_, table, reinterpret_cast<const int32_t*>(*ids), static_cast<int64_t>(host_ids.size()), out));
}

void CudaBackend::SetRotations(const float* host_cos, const float* host_sin, int64_t n_tokens, int half_dim) {
  const auto n = static_cast<size_t>(n_tokens * half_dim);
  cos_ = sin_ = nullptr;
  const auto memory = rotations_.Get(2 * n * sizeof(float));
  if (!memory.ok()) return Keep(memory.status());
  auto* floats = reinterpret_cast<float*>(*memory);
  FromHost(host_cos, floats, n * sizeof(float));
  FromHost(host_sin, floats + n, n * sizeof(float));
  cos_ = floats;
  sin_ = floats + n;
}

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
bool IsMade(const ProductInput& input) { return input.norm != nullptr || input.up != nullptr; }
float* KeptOf(const ProductInput& input) { return IsMade(input) && input.made_is_kept ? input.made : nullptr; }

// What is made of the input goes straight to the numbers that are multiplied.
Status CudaBackend::Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks) {
  DUO_RETURN_IF_ERROR(kept_.Take());
  const CudaTimes::Scope scope(&times_, CudaTimes::kLinear);
  const CudaProductType type = TypeOf(compute);
  const int64_t n_tokens = input.n_tokens, n_in = input.n_in;
  const bool library = n_tokens > kFewTokens && std::all_of(tasks.begin(), tasks.end(), [&](const LinearTask& task) {
                         return CudaMatmul::Takes(type, n_in, task.weight.n_out);
                       });
  if (!library) return LinearFewTokens(compute, input, tasks);
  if (compute == ComputeType::kInt8) return LinearInt8(input, tasks);
  if (compute == ComputeType::kF32) {
    if (!IsMade(input)) return LinearFloats<float>(type, input.x, n_tokens, n_in, tasks);
    DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input), {.floats = input.made}));
    return LinearFloats<float>(type, input.made, n_tokens, n_in, tasks);
  }
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(static_cast<size_t>(n_tokens * n_in) * sizeof(uint16_t)));
  auto* rounded = reinterpret_cast<uint16_t*>(memory);
  DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input), {.floats = KeptOf(input), .rounded = rounded}));
  return LinearFloats<uint16_t>(type, rounded, n_tokens, n_in, tasks);
}

Status CudaBackend::LinearFewTokens(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks) {
  const auto multiply = [&](const float* x, int64_t begin, int64_t n) {
    std::vector<CudaGemvTask> list;
    for (const LinearTask& task : tasks) {
      list.push_back({task.weight, task.bias, task.out + begin * task.weight.n_out, task.accumulate});
    }
    return RunCudaGemv(stream_, {.tasks = list, .x = x, .n_tokens = n, .round_x = compute == ComputeType::kBF16});
  };
  if (compute != ComputeType::kInt8) {
    if (!IsMade(input)) return multiply(input.x, 0, input.n_tokens);
    DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input), {.floats = input.made}));
    return multiply(input.made, 0, input.n_tokens);
  }
  // Some tokens at a time: there may be many where the library does not take a matrix.
  for (int64_t begin = 0; begin < input.n_tokens; begin += kFewTokens) {
    const int64_t n = std::min(kFewTokens, input.n_tokens - begin);
    DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(static_cast<size_t>(n * input.n_in) * sizeof(float)));
    auto* grid = reinterpret_cast<float*>(memory);
    float* kept = KeptOf(input) == nullptr ? nullptr : KeptOf(input) + begin * input.n_in;
    DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input, begin, n), {.floats = kept, .grid = grid}));
    DUO_RETURN_IF_ERROR(multiply(grid, begin, n));
  }
  return OkStatus();
}

Status CudaBackend::LinearInt8(const ProductInput& input, std::span<const LinearTask> tasks) {
  const int64_t n_tokens = input.n_tokens, n_in = input.n_in;
  const size_t scale_bytes = RoundUp(static_cast<size_t>(n_tokens) * sizeof(float), 256);
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, rounded_.Get(scale_bytes + static_cast<size_t>(n_tokens * n_in)));
  auto* scale = reinterpret_cast<float*>(memory);
  auto* codes = reinterpret_cast<int8_t*>(memory + scale_bytes);
  DUO_RETURN_IF_ERROR(CudaMakeRows(stream_, RowsOf(input), {.floats = KeptOf(input), .codes = codes, .scale = scale}));
  for (const LinearTask& task : tasks) {
    const int64_t n_out = task.weight.n_out;
    DUO_ASSIGN_OR_RETURN(uint8_t * sums, sums_.Get(static_cast<size_t>(n_tokens * n_out) * sizeof(int32_t)));
    DUO_RETURN_IF_ERROR(matmul_->Run({.type = CudaProductType::kInt8,
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
Status CudaBackend::LinearFloats(CudaProductType type, const T* x, int64_t n_tokens, int64_t n_in,
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
    const auto row_bytes = static_cast<size_t>(n_in) * sizeof(T);
    const int64_t step = CudaPanelRows(row_bytes);
    const int64_t most = std::min(step, w.n_out);
    DUO_ASSIGN_OR_RETURN(uint8_t * panel, panel_.Get(static_cast<size_t>(most) * row_bytes));
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

void CudaBackend::StoreRows(std::span<const StoreTask> tasks, int head_dim, KvType type) {
  std::vector<CudaStoreTask> list;
  list.reserve(tasks.size());
  for (const StoreTask& t : tasks) list.push_back({t.src, t.src_stride, t.dst, t.row, t.n_rows, t.part});
  Keep(CudaStoreRows(stream_, list, head_dim, type));
}

void CudaBackend::CopyRows(std::span<const CopyRowsTask> tasks, int head_dim, KvType type) {
  std::vector<CudaCopyRowsTask> list;
  list.reserve(tasks.size());
  for (const CopyRowsTask& t : tasks) list.push_back({t.src, t.dst, t.src_row, t.dst_row, t.n_rows, t.part});
  Keep(CudaCopyRows(stream_, list, head_dim, type));
}

CudaAttentionShape ShapeOf(const AttentionShape& shape) {
  return {.group = shape.group,
          .head_dim = shape.head_dim,
          .q_stride = shape.q_stride,
          .lse_stride = shape.lse_stride,
          .q_pos = shape.q_pos,
          .n_tokens = shape.n_tokens,
          .kv_type = shape.kv_type,
          .exact = shape.compute == ComputeType::kF32,
          .scale = shape.scale};
}

Status CudaBackend::DecodeAttention(const AttentionShape& shape, std::span<const DecodeHead> heads) {
  DUO_RETURN_IF_ERROR(kept_.Take());
  const CudaTimes::Scope scope(&times_, CudaTimes::kAttention);
  std::vector<CudaDecodeHead> list;
  list.reserve(heads.size());
  for (const DecodeHead& h : heads) {
    CudaDecodeHead head{.q = h.q, .k = h.k, .v = h.v, .out = h.out, .lse = h.lse, .begin = {}, .end = {}};
    for (int i = 0; i < h.n_ranges; ++i) head.begin[i] = h.ranges[i].begin, head.end[i] = h.ranges[i].end;
    list.push_back(head);
  }
  const int64_t n_pieces = MostCudaDecodePieces(static_cast<int64_t>(heads.size()), device_->n_processors());
  const auto n_floats = static_cast<size_t>(CudaDecodeStateFloats(n_pieces, shape.group, shape.head_dim));
  DUO_ASSIGN_OR_RETURN(uint8_t * states, states_.Get(n_floats * sizeof(float)));
  const int64_t n_counters = CudaDecodeCounters(static_cast<int64_t>(heads.size()), shape.group);
  DUO_ASSIGN_OR_RETURN(uint8_t * counters, counters_.Get(static_cast<size_t>(n_counters) * sizeof(int32_t)));
  return CudaDecodeAttention(stream_, ShapeOf(shape), list, device_->n_processors(), reinterpret_cast<float*>(states),
                             reinterpret_cast<int32_t*>(counters));
}

Status CudaBackend::PrefillAttention(const AttentionShape& shape, std::span<const PrefillHead> heads) {
  DUO_RETURN_IF_ERROR(kept_.Take());
  const CudaTimes::Scope scope(&times_, CudaTimes::kAttention);
  std::vector<CudaPrefillHead> list;
  list.reserve(heads.size());
  for (const PrefillHead& h : heads) {
    list.push_back({h.q, h.k, h.v, h.out, h.lse, h.n_rows, h.n_sink_rows, h.body_pos, h.mask});
  }
  return CudaPrefillAttention(stream_, ShapeOf(shape), list);
}

uint64_t CudaBackend::MaxScratchBytes(const CallBounds& bounds) const {
  const auto tokens = static_cast<uint64_t>(bounds.n_tokens), few = std::min<uint64_t>(tokens, kFewTokens);
  const auto widest = static_cast<uint64_t>(bounds.widest_input);
  const bool int8 = bounds.compute == ComputeType::kInt8, floats = bounds.compute == ComputeType::kF32;
  const uint64_t rounded = int8     ? std::max(tokens * (widest + sizeof(float)) + 256, few * widest * sizeof(float))
                           : floats ? 0
                                    : tokens * widest * sizeof(uint16_t);
  const uint64_t sums = int8 ? static_cast<uint64_t>(bounds.most_outputs) * sizeof(int32_t) : 0;
  const bool same = bounds.weights == (floats ? DType::kF32 : DType::kBF16);
  const uint64_t bytes = floats ? sizeof(float) : sizeof(uint16_t);
  const uint64_t panel = same || int8 ? 0
                                      : std::min(kCudaPanelBytes + kInt4Rows * widest * bytes,
                                                 static_cast<uint64_t>(bounds.largest_matrix) * bytes);
  const int64_t n_heads = static_cast<int64_t>(bounds.n_kv_heads) * bounds.n_sequences;
  const auto states = static_cast<uint64_t>(CudaDecodeStateFloats(
                          MostCudaDecodePieces(n_heads, device_->n_processors()), bounds.group, bounds.head_dim)) *
                      sizeof(float);
  const auto counters = static_cast<uint64_t>(CudaDecodeCounters(n_heads, bounds.group)) * sizeof(int32_t);
  const uint64_t rotations = tokens * static_cast<uint64_t>(bounds.head_dim) * sizeof(float);
  return rounded + sums + panel + states + counters + rotations + tokens * sizeof(int32_t) +
         CudaMatmul::WorkspaceBytes() + kGraphBytes;
}

Result<double> CudaBackend::MeasureReadBandwidth() {
  DUO_ASSIGN_OR_RETURN(uint8_t * memory, measured_.Get(2 * kCopyMeasureBytes));
  const auto copy = [&]() -> Status {
    for (int pass = 0; pass < kCopyMeasurePasses; ++pass) {
      DUO_RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(memory + kCopyMeasureBytes, memory, kCopyMeasureBytes,
                                                     cudaMemcpyDeviceToDevice, stream_.get()),
                                     "copying"));
    }
    return OkStatus();
  };
  DUO_RETURN_IF_ERROR(copy());
  DUO_ASSIGN_OR_RETURN(const double seconds, times_.SecondsOf(copy));
  return 2.0 * kCopyMeasurePasses * static_cast<double>(kCopyMeasureBytes) / seconds * 1e-9;
}

Result<double> CudaBackend::MeasureGemm(ComputeType compute) {
  constexpr auto kElements = static_cast<size_t>(kGemmMeasure * kGemmMeasure);
  DUO_ASSIGN_OR_RETURN(const DeviceMemoryPtr memory, Allocate(3 * kElements * sizeof(float)));
  DUO_RETURN_IF_ERROR(CudaStatus(cudaMemsetAsync(memory->data(), 0, memory->bytes(), stream_.get()), "clearing"));
  const CudaProduct product{.type = TypeOf(compute),
                            .x = memory->data(),
                            .w = memory->data() + kElements * sizeof(float),
                            .n_tokens = kGemmMeasure,
                            .n_in = kGemmMeasure,
                            .n_out = kGemmMeasure,
                            .out = memory->data() + 2 * kElements * sizeof(float),
                            .out_stride = kGemmMeasure,
                            .accumulate = false};
  DUO_RETURN_IF_ERROR(matmul_->Run(product));
  DUO_ASSIGN_OR_RETURN(const double seconds, times_.SecondsOf([&] { return matmul_->Run(product); }));
  return 2.0 * static_cast<double>(kElements) * static_cast<double>(kGemmMeasure) / seconds * 1e-9;
}

}  // namespace

Result<BackendPtr> CreateCudaBackend(const BackendOptions&) {
  DUO_ASSIGN_OR_RETURN(auto device, CudaDevice::Open());
  DUO_ASSIGN_OR_RETURN(auto space, CudaAddressSpace::Open(0, device->stream()));
  DUO_ASSIGN_OR_RETURN(auto matmul, CreateCudaMatmul(device->stream()));
  return BackendPtr(new CudaBackend(std::move(device), std::move(space), std::move(matmul)));
}

}  // namespace duo
