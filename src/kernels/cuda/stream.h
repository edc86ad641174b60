// Where work for a GPU is queued: a stream, and launches that are held back so that they go to it as one graph.
#pragma once

#include <memory>

#include "duo/result.h"

struct CUstream_st;

namespace duo {

struct CudaLaunch;  // kernels/cuda/launch.h

/// Launches between Begin and End are a part of a step that is repeated, a layer for one. They go to the device
/// together, as a graph that is made once; from one step to the next it is only told which arguments have changed. That
/// takes the host a fraction of the time of single launches, and the device has shorter pauses between them.
/// Thread safe, but for Begin and End.
class CudaGraphs {
 public:
  explicit CudaGraphs(CUstream_st* stream);
  ~CudaGraphs();
  CudaGraphs(const CudaGraphs&) = delete;
  CudaGraphs& operator=(const CudaGraphs&) = delete;

  /// part: 0, 1, ... of the step; each has a graph of its own.
  void Begin(int part);
  /// Sends what was held back, one by one where something else came between. The error of any of these launches.
  Status End();

  /// Starts or holds back.
  Status Start(const CudaLaunch& launch);
  /// Sends what is held back so far, one by one.
  void Flush();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// A stream, by value: what is queued runs in the order of the calls.
class CudaStream {
 public:
  /// Null is the default stream. `graphs`, if any, lives as long as work is queued here.
  CudaStream(CUstream_st* stream, CudaGraphs* graphs = nullptr) : stream_(stream), graphs_(graphs) {}  // NOLINT

  /// For anything but launches, right away: launches that are held back go first.
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
