// Where work for a GPU is queued: a stream, and launches that are held back so that they go to it as one graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "duo/result.h"

struct CUstream_st;

namespace duo {

struct CudaLaunch;  // kernels/cuda/launch.h

/// Launches between Begin and End are a part of a step that is repeated, a layer for one. They go to the device
/// together, as a graph that is made once; from one step to the next it is only told which arguments have changed
/// (docs/decisions/0012-graphs-of-launches.md). Thread safe; Begin and End are one thread's.
class CudaGraphs {
 public:
  explicit CudaGraphs(CUstream_st* stream);
  ~CudaGraphs();
  CudaGraphs(const CudaGraphs&) = delete;
  CudaGraphs& operator=(const CudaGraphs&) = delete;

  /// part: 0, 1, ... of the step; each has a graph of its own.
  void Begin(int part);
  /// Sends what was held back, one by one where something else came between. The first error of any launch since Begin.
  Status End();

  /// Starts or holds back.
  Status Start(const CudaLaunch& launch);
  /// Sends what is held back so far, one by one. End returns their errors.
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
  bool whole_ = true;   // nothing came between the launches of this part
  int n_refusals_ = 0;  // in a row, of graphs
  int64_t n_launched_ = 0;
  size_t part_ = 0;
  std::vector<HeldLaunch> held_;  // [0, n_held_); the others keep their memory for the next
  size_t n_held_ = 0;
  Status status_;  // the first error of launches that were held back
  std::vector<PartGraph> parts_;
};

/// A stream, by value: what is queued runs in the order of the calls.
class CudaStream {
 public:
  /// Null is the default stream. `graphs`, if any, lives as long as work is queued here.
  CudaStream(CUstream_st* stream, CudaGraphs* graphs = nullptr) : stream_(stream), graphs_(graphs) {}  // NOLINT

  /// For anything but launches, right away: launches that are held back go first. Their errors are CudaGraphs::End's.
  CUstream_st* get() const {
    if (graphs_ != nullptr) graphs_->Flush();
    return stream_;
  }
  /// kInternal for what cannot be launched.
  Status Start(const CudaLaunch& launch) const;

 private:
  CUstream_st* stream_;
  CudaGraphs* graphs_;
};

}  // namespace duo
