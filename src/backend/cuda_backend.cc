#include "backend/cuda_backend.h"

#include <cuda_runtime.h>
#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <utility>

#include "backend/backend.h"
#include "backend/cuda_device.h"
#include "backend/cuda_identify_ops.h"
#include "backend/cuda_kept_status.h"
#include "backend/cuda_memory.h"
#include "backend/cuda_meter.h"
#include "backend/cuda_products.h"
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

// Memory of one layer's graph. It has about ten launches; each takes some KiB in the driver, and its arguments.
constexpr uint64_t kGraphBytes = uint64_t{256} << 10;

// All work is queued on one stream, in the order of the calls.
//
// Launches inside a layer are held back and sent as one graph at its end. Every other use of the stream goes through
// stream_.get(), which first sends the launches that are held back, so the order of the work never changes.
//
// The first error of operations that return void is in kept_, until an operation that returns a Status takes it.
//
// The owner of the stream is device_. It is destroyed last, because the destructors of memory wait for the stream.
class CudaBackend : public Backend {
 public:
  CudaBackend(std::unique_ptr<CudaDevice> device, std::unique_ptr<CudaAddressSpace> space,
              std::unique_ptr<CudaMatmul> matmul)
      : device_(std::move(device)),
        stream_(device_->stream()),
        space_(std::move(space)),
        matmul_(std::move(matmul)),
        meter_(stream_, matmul_.get(), device_->memory_bytes()) {}
  ~CudaBackend() override { cudaStreamSynchronize(stream_.get()); }

  std::string Describe() const override {
    return fmt::format("cuda, {}, {} multiprocessors", device_->name(), device_->n_processors());
  }
  // Host threads. They prepare weights before these go to the device.
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
  Status Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks) override {
    DUO_RETURN_IF_ERROR(kept_.Take());
    const CudaMeter::Scope scope(&meter_, CudaMeter::kLinear);
    return products_.Linear(compute, input, tasks);
  }
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
  void StoreRows(std::span<const StoreTask> tasks, int head_dim, KvType type) override {
    Keep(CudaStoreRows(stream_, tasks, head_dim, type));
  }
  void CopyRows(std::span<const CopyRowsTask> tasks, int head_dim, KvType type) override {
    Keep(CudaCopyRows(stream_, tasks, head_dim, type));
  }
  Status DecodeAttention(const AttentionShape& shape, std::span<const DecodeHead> heads) override;
  Status PrefillAttention(const AttentionShape& shape, std::span<const PrefillHead> heads) override {
    DUO_RETURN_IF_ERROR(kept_.Take());
    const CudaMeter::Scope scope(&meter_, CudaMeter::kAttention);
    return CudaPrefillAttention(stream_, shape, heads);
  }

  void BeginLayer(int layer) override { device_->graphs()->Begin(layer); }
  Status EndLayer() override {
    Status ended = device_->graphs()->End();
    DUO_RETURN_IF_ERROR(kept_.Take());
    return ended;
  }

  IdentifyOps* identify_ops() override { return &identify_; }
  Meter* meter() override { return &meter_; }

 private:
  /// Keeps the first error of operations that return void. The next operation that returns a Status returns it.
  void Keep(const Status& status) { kept_.Keep(status); }
  std::unique_ptr<CudaDevice> device_;
  CudaStream stream_;
  std::unique_ptr<CudaAddressSpace> space_;
  std::unique_ptr<CudaMatmul> matmul_;
  CudaMeter meter_;
  CudaUploader uploader_{stream_};
  CudaScratch ids_{stream_};
  CudaScratch rotations_{stream_};
  CudaProducts products_{stream_, matmul_.get()};
  CudaScratch states_{stream_};    // softmax states of a decode step's pieces
  CudaScratch counters_{stream_};  // counters of a decode step's pieces; zeros between calls
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
  Keep(CudaEmbed(stream_, table, reinterpret_cast<const int32_t*>(*ids), std::ssize(host_ids), out));
}

void CudaBackend::SetRotations(const float* host_cos, const float* host_sin, int64_t n_tokens, int half_dim) {
  const int64_t n = n_tokens * half_dim;
  cos_ = sin_ = nullptr;
  const auto memory = rotations_.Get(2 * n * sizeof(float));
  if (!memory.ok()) return Keep(memory.status());
  auto* floats = reinterpret_cast<float*>(*memory);
  FromHost(host_cos, floats, n * sizeof(float));
  FromHost(host_sin, floats + n, n * sizeof(float));
  cos_ = floats;
  sin_ = floats + n;
}

Status CudaBackend::DecodeAttention(const AttentionShape& shape, std::span<const DecodeHead> heads) {
  DUO_RETURN_IF_ERROR(kept_.Take());
  const CudaMeter::Scope scope(&meter_, CudaMeter::kAttention);
  const int64_t n_pieces = MostCudaDecodePieces(std::ssize(heads), device_->n_processors());
  const int64_t n_floats = CudaDecodeStateFloats(n_pieces, shape.group, shape.head_dim);
  DUO_ASSIGN_OR_RETURN(uint8_t * states, states_.Get(n_floats * sizeof(float)));
  const int64_t n_counters = CudaDecodeCounters(std::ssize(heads), shape.group);
  DUO_ASSIGN_OR_RETURN(uint8_t * counters, counters_.Get(n_counters * sizeof(int32_t)));
  return CudaDecodeAttention(stream_, shape, heads, device_->n_processors(), reinterpret_cast<float*>(states),
                             reinterpret_cast<int32_t*>(counters));
}

uint64_t CudaBackend::MaxScratchBytes(const CallBounds& bounds) const {
  const uint64_t tokens = bounds.n_tokens;
  const int64_t n_heads = int64_t{bounds.n_kv_heads} * bounds.n_sequences;
  const int64_t n_pieces = MostCudaDecodePieces(n_heads, device_->n_processors());
  const uint64_t states = CudaDecodeStateFloats(n_pieces, bounds.group, bounds.head_dim) * sizeof(float);
  const uint64_t counters = CudaDecodeCounters(n_heads, bounds.group) * sizeof(int32_t);
  const uint64_t rotations = tokens * bounds.head_dim * sizeof(float);
  return CudaProducts::MaxScratchBytes(bounds) + states + counters + rotations + tokens * sizeof(int32_t) +
         CudaMatmul::WorkspaceBytes() + bounds.n_layers * kGraphBytes;
}

}  // namespace

Result<BackendPtr> CreateCudaBackend() {
  DUO_ASSIGN_OR_RETURN(auto device, CudaDevice::Open());
  DUO_ASSIGN_OR_RETURN(auto space, CudaAddressSpace::Open(0, device->stream()));
  DUO_ASSIGN_OR_RETURN(auto matmul, CreateCudaMatmul(device->stream()));
  return BackendPtr(new CudaBackend(std::move(device), std::move(space), std::move(matmul)));
}

}  // namespace duo
