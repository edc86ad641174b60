// Attention of the CPU backend, and writing rows of the caches that it reads.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "backend/cpu_memory.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {

/// Each method implements the one of Backend with a similar name.
class CpuAttention {
 public:
  CpuAttention(int n_threads, Isa isa)
      : n_threads_(n_threads), dense_(DenseKernelsFor(isa)), attention_(AttentionKernelsFor(isa)) {}

  void StoreRows(std::span<const StoreTask> tasks, int head_dim, KvType type);
  void CopyRows(std::span<const CopyRowsTask> tasks, int head_dim, KvType type);
  Status Decode(const AttentionShape& shape, std::span<const DecodeHead> heads);
  Status Prefill(const AttentionShape& shape, std::span<const PrefillHead> heads);
  /// Upper bound of the scratch held for calls within these bounds.
  uint64_t MaxScratchBytes(const CallBounds& bounds) const;

 private:
  int n_threads_;
  const DenseKernels& dense_;
  const AttentionKernels& attention_;
  Scratch states_;  // partial softmax states of a decode step
  Scratch tiles_;   // prefill scratch of all threads
};

}  // namespace duo
