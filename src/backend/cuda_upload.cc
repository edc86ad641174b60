#include "backend/cuda_upload.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "base/parallel.h"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

constexpr size_t kBlockBytes = size_t{32} << 20;
constexpr int64_t kPieceBytes = 1 << 20;  // copied by a thread at a time

}  // namespace

CudaUploader::~CudaUploader() {
  for (const Block& block : blocks_) {
    if (block.sent != nullptr) cudaEventDestroy(block.sent);
    if (block.pinned != nullptr) cudaFreeHost(block.pinned);
  }
}

Status CudaUploader::Open() {
  for (Block& block : blocks_) {
    if (block.pinned == nullptr) {
      DUO_RETURN_IF_ERROR(CudaStatus(cudaMallocHost(&block.pinned, kBlockBytes), "pinned memory for uploads"));
    }
    if (block.sent == nullptr) {
      DUO_RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&block.sent, cudaEventDisableTiming), "an event"));
    }
  }
  return OkStatus();
}

// Uses the two blocks alternately. A block is filled again only after the event `sent`, which follows its last copy.
Status CudaUploader::Copy(const void* from, uint8_t* to, size_t bytes, int n_threads) {
  DUO_RETURN_IF_ERROR(Open());
  const auto* source = static_cast<const uint8_t*>(from);
  for (size_t done = 0; done < bytes;) {
    const size_t n = std::min(kBlockBytes, bytes - done);
    Block& block = blocks_[next_];
    next_ = 1 - next_;
    DUO_RETURN_IF_ERROR(CudaStatus(cudaEventSynchronize(block.sent), "uploading"));
    ParallelBlocks(n_threads, n, kPieceBytes, [&](int64_t begin, int64_t end) {
      std::memcpy(block.pinned + begin, source + done + begin, end - begin);
    });
    DUO_RETURN_IF_ERROR(
        CudaStatus(cudaMemcpyAsync(to + done, block.pinned, n, cudaMemcpyHostToDevice, stream_.get()), "uploading"));
    DUO_RETURN_IF_ERROR(CudaStatus(cudaEventRecord(block.sent, stream_.get()), "uploading"));
    done += n;
  }
  return OkStatus();
}

}  // namespace duo
