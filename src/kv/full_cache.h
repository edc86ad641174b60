// K and V of one layer's retrieval heads. They keep every token, contiguous per head, and grow without copying.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "kv/kv_layout.h"

namespace duo {

/// [n_heads, capacity, head_dim] for K, then the same for V, in reserved address space. Rows are backed with memory as
/// they are committed. Row r of a head holds position r.
class FullCache {
 public:
  FullCache() = default;
  /// Reserves address space. kResourceExhausted. `backend` must outlive the cache.
  static Result<FullCache> Create(Backend* backend, const KvLayout& layout, int n_heads);

  /// Upper bound of the bytes that whole pages of `page` bytes take in addition to the rows.
  static uint64_t PageBytes(const KvLayout& layout, int n_heads, uint64_t page);

  /// Backs rows [0, n_rows) of every head with memory. It grows in steps, so that calling it for every token is cheap.
  Status EnsureRows(int64_t n_rows);

  int n_heads() const { return n_heads_; }
  int64_t committed_rows() const { return committed_; }
  /// Row 0 of a head's keys or values.
  uint8_t* rows(KvPart part, int head) const {
    const int index = part == KvPart::kKeys ? head : n_heads_ + head;
    return memory_->data() + index * head_stride_;
  }

 private:
  DeviceMemoryPtr memory_;  // null when n_heads == 0
  int n_heads_ = 0;
  KvLayout layout_;
  size_t head_stride_ = 0;  // bytes between heads
  int64_t committed_ = 0;   // rows that are backed
};

}  // namespace duo
