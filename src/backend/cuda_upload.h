// Copies weights to the device. While one block is on its way, the next is read from its file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/result.h"
#include "kernels/cuda/stream.h"

struct CUevent_st;

namespace duo {

/// Copies through two blocks of pinned memory. The first copy allocates them, and they are kept.
class CudaUploader {
 public:
  explicit CudaUploader(CudaStream stream) : stream_(stream) {}
  ~CudaUploader();
  CudaUploader(const CudaUploader&) = delete;
  CudaUploader& operator=(const CudaUploader&) = delete;

  /// Queues the copy on the stream. The caller may reuse `from` when this returns. kResourceExhausted, kInternal.
  Status Copy(const void* from, uint8_t* to, size_t bytes, int n_threads);

 private:
  struct Block {
    uint8_t* pinned = nullptr;
    CUevent_st* sent = nullptr;
  };
  Status Open();

  CudaStream stream_;
  Block blocks_[2];
  int next_ = 0;
};

}  // namespace duo
