// A queue of work for a GPU: a stream, and launches that are held back so that they go to it as one graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "duo/result.h"

struct CUstream_st;

namespace duo {

struct CudaLaunch;  // kernels/cuda/launch.h

/// Launches between Begin and End are one part, for example a layer, of a step that is repeated. They go to the device
/// together as a graph. The graph is made once, and later steps only update the arguments that changed
/// (docs/decisions/0012-graphs-of-launches.md). Thread safe, but only one thread may call Begin and End.
class CudaGraphs {
 public:
  explicit CudaGraphs(CUstream_st* stream);
  ~CudaGraphs();
  CudaGraphs(const CudaGraphs&) = delete;
  CudaGraphs& operator=(const CudaGraphs&) = delete;

  /// part: 0, 1, ... within the step. Each part has its own graph.
  void Begin(int part);
  /// Sends the launches that were held back: as a graph, or one by one if other work came between them. Returns the
  /// first error of any launch since Begin.
  Status End();

  /// Starts the launch, or holds it back between Begin and End.
  Status Start(const CudaLaunch& launch);
  /// Sends the launches held back so far, one by one. End returns their errors.
  void Flush();

  /// Graphs launched so far.
  int64_t n_launched() const;

 private:
  class HeldLaunch;
  class PartGraph;

  void SendOneByOne();
  void Keep(const Status& status);

  CUstream_st* stream_;
  mutable std::mutex mutex_;
  bool holding_ = false;
  bool whole_ = true;   // no other work came between the launches of this part
  int n_refusals_ = 0;  // failures in a row to make a graph
  int64_t n_launched_ = 0;
  size_t part_ = 0;
  std::vector<HeldLaunch> held_;  // [0, n_held_) are held back; the others keep their memory for reuse
  size_t n_held_ = 0;
  Status status_;  // the first error of launches that were held back
  std::vector<PartGraph> parts_;
};

/// A stream, passed by value. Queued work runs in the order of the calls.
class CudaStream {
 public:
  /// Null is the default stream. `graphs`, if any, lives as long as work is queued here.
  CudaStream(CUstream_st* stream, CudaGraphs* graphs = nullptr) : stream_(stream), graphs_(graphs) {}  // NOLINT

  /// The stream for immediate work other than launches. Launches that are held back are sent first, and CudaGraphs::End
  /// returns their errors.
  CUstream_st* get() const {
    if (graphs_ != nullptr) graphs_->Flush();
    return stream_;
  }
  /// kInternal if the launch is impossible.
  Status Start(const CudaLaunch& launch) const;

 private:
  CUstream_st* stream_;
  CudaGraphs* graphs_;
};

}  // namespace duo
