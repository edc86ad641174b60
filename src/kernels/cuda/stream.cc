#include "kernels/cuda/stream.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "base/align.h"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

constexpr size_t kArgumentAlign = 16;
// After this many failures in a row graphs are given up, because the driver cannot make them.
constexpr int kMaxRefusals = 3;

/// Rejects shapes that no device can start, before they are held back. A driver may notice them only when the graph is
/// launched.
Status CheckShape(const char* name, const LaunchShape& shape) {
  const dim3 &g = shape.grid, &b = shape.block;
  const bool some = g.x > 0 && g.y > 0 && g.z > 0 && b.x > 0 && b.y > 0 && b.z > 0;
  return some ? OkStatus() : CudaStatus(cudaErrorInvalidConfiguration, name);
}

Status StartNow(CUstream_st* stream, const char* name, const void* kernel, const LaunchShape& shape, void** arguments) {
  const cudaLaunchConfig_t config = {shape.grid, shape.block, shape.shared_bytes, stream, nullptr, 0};
  return CudaStatus(cudaLaunchKernelExC(&config, kernel, arguments), name);
}

bool SameDim(const dim3& a, const dim3& b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

}  // namespace

/// A launch with a copy of its arguments.
class CudaGraphs::HeldLaunch {
 public:
  void Set(const CudaLaunch& launch) {
    name_ = launch.name;
    kernel_ = launch.kernel;
    shape_ = launch.shape;
    offsets_.clear();
    bytes_.clear();
    for (size_t i = 0; i < launch.arguments.size(); ++i) {
      offsets_.push_back(RoundUp(bytes_.size(), kArgumentAlign));
      bytes_.resize(offsets_.back());
      const auto* from = static_cast<const uint8_t*>(launch.arguments[i]);
      bytes_.insert(bytes_.end(), from, from + launch.argument_bytes[i]);
    }
  }
  bool Is(const HeldLaunch& other) const {
    return kernel_ == other.kernel_ && SameDim(shape_.grid, other.shape_.grid) &&
           SameDim(shape_.block, other.shape_.block) && shape_.shared_bytes == other.shape_.shared_bytes &&
           bytes_ == other.bytes_;
  }
  Status Start(CUstream_st* stream) { return StartNow(stream, name_, kernel_, shape_, Arguments()); }
  /// Valid until the next call or change.
  cudaKernelNodeParams NodeParams() {
    return {const_cast<void*>(kernel_),
            shape_.grid,
            shape_.block,
            static_cast<unsigned>(shape_.shared_bytes),
            Arguments(),
            nullptr};
  }

 private:
  void** Arguments() {
    pointers_.clear();
    for (const size_t offset : offsets_) pointers_.push_back(bytes_.data() + offset);
    return pointers_.data();
  }

  const char* name_ = nullptr;
  const void* kernel_ = nullptr;
  LaunchShape shape_;
  std::vector<uint8_t> bytes_;  // the arguments
  std::vector<size_t> offsets_;
  std::vector<void*> pointers_;
};

/// The graph of a part. It is a chain of the part's launches.
class CudaGraphs::PartGraph {
 public:
  PartGraph() = default;
  PartGraph(PartGraph&& other) noexcept { *this = std::move(other); }
  PartGraph& operator=(PartGraph&& other) noexcept {
    std::swap(graph_, other.graph_);
    std::swap(exec_, other.exec_);
    std::swap(nodes_, other.nodes_);
    std::swap(launches_, other.launches_);
    return *this;
  }
  ~PartGraph() {
    if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }

  /// Makes this the graph of the first n launches, and leaves its old launches in their place, so that their memory is
  /// reused. After an error the launches are unchanged, and the graph must not be started.
  Status Become(std::vector<HeldLaunch>* launches, size_t n) {
    if (exec_ == nullptr || launches_.size() != n) return Make(launches, n);
    for (size_t i = 0; i < n; ++i) {
      HeldLaunch& launch = (*launches)[i];
      if (launch.Is(launches_[i])) continue;
      const cudaKernelNodeParams params = launch.NodeParams();
      DUO_RETURN_IF_ERROR(CudaStatus(cudaGraphExecKernelNodeSetParams(exec_, nodes_[i], &params), "changing a graph"));
    }
    std::swap_ranges(launches_.begin(), launches_.end(), launches->begin());
    return OkStatus();
  }

  Status Start(CUstream_st* stream) const { return CudaStatus(cudaGraphLaunch(exec_, stream), "a graph"); }

 private:
  Status Make(std::vector<HeldLaunch>* launches, size_t n) {
    *this = PartGraph();
    DUO_RETURN_IF_ERROR(CudaStatus(cudaGraphCreate(&graph_, 0), "a graph"));
    for (size_t i = 0; i < n; ++i) {
      const cudaKernelNodeParams params = (*launches)[i].NodeParams();
      cudaGraphNode_t node = nullptr;
      DUO_RETURN_IF_ERROR(
          CudaStatus(cudaGraphAddKernelNode(&node, graph_, i == 0 ? nullptr : &nodes_[i - 1], i == 0 ? 0 : 1, &params),
                     "adding to a graph"));
      nodes_.push_back(node);
    }
    DUO_RETURN_IF_ERROR(CudaStatus(cudaGraphInstantiate(&exec_, graph_, 0), "finishing a graph"));
    launches_.resize(n);
    std::swap_ranges(launches_.begin(), launches_.end(), launches->begin());
    return OkStatus();
  }

  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
  std::vector<cudaGraphNode_t> nodes_;
  std::vector<HeldLaunch> launches_;
};

CudaGraphs::CudaGraphs(CUstream_st* stream) : stream_(stream) {}
CudaGraphs::~CudaGraphs() = default;

void CudaGraphs::Begin(int part) {
  const std::lock_guard lock(mutex_);
  SendOneByOne();
  holding_ = true;
  whole_ = true;
  part_ = static_cast<size_t>(part);
}

Status CudaGraphs::End() {
  const std::lock_guard lock(mutex_);
  holding_ = false;
  if (n_held_ > 0 && whole_ && n_refusals_ < kMaxRefusals) {
    if (parts_.size() <= part_) parts_.resize(part_ + 1);
    PartGraph& graph = parts_[part_];
    if (graph.Become(&held_, n_held_).ok()) {
      n_held_ = 0;
      n_refusals_ = 0;
      ++n_launched_;
      Keep(graph.Start(stream_));
    } else {
      // Nothing has been started yet. If the launches succeed one by one, the driver cannot make graphs.
      graph = PartGraph();
      SendOneByOne();
      if (status_.ok()) ++n_refusals_;
    }
  }
  SendOneByOne();
  return std::exchange(status_, OkStatus());
}

Status CudaGraphs::Start(const CudaLaunch& launch) {
  DUO_RETURN_IF_ERROR(CheckShape(launch.name, launch.shape));
  const std::lock_guard lock(mutex_);
  if (!holding_) return StartNow(stream_, launch.name, launch.kernel, launch.shape, launch.arguments.data());
  if (n_held_ == held_.size()) held_.emplace_back();
  held_[n_held_++].Set(launch);
  return OkStatus();
}

void CudaGraphs::Flush() {
  const std::lock_guard lock(mutex_);
  if (holding_) whole_ = false;
  SendOneByOne();
}

int64_t CudaGraphs::n_launched() const {
  const std::lock_guard lock(mutex_);
  return n_launched_;
}

void CudaGraphs::SendOneByOne() {
  for (size_t i = 0; i < n_held_; ++i) Keep(held_[i].Start(stream_));
  n_held_ = 0;
}

void CudaGraphs::Keep(const Status& status) {
  if (status_.ok()) status_ = status;
}

Status CudaStream::Start(const CudaLaunch& launch) const {
  if (graphs_ != nullptr) return graphs_->Start(launch);
  return StartNow(stream_, launch.name, launch.kernel, launch.shape, launch.arguments.data());
}

}  // namespace duo
