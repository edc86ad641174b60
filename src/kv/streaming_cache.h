// K and V of one layer's streaming heads: attention sinks and a ring of recent tokens. Constant size.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "kv/kv_layout.h"

namespace duo {

/// [n_heads, sink + ring, head_dim] for K and the same for V. Position p is in slot p when p < sink, else in slot
/// sink + (p - sink) % ring: the ring always holds the last `ring` positions behind the sinks.
class StreamingCache {
 public:
  StreamingCache() = default;
  /// kResourceExhausted. `backend` must outlive the cache.
  static Result<StreamingCache> Create(Backend* backend, const KvLayout& layout, int n_heads);

  int n_heads() const { return n_heads_; }
  /// Of all heads, from k(0) on.
  size_t bytes() const { return head_bytes_ * 2 * static_cast<size_t>(n_heads_); }
  int64_t Slot(int64_t pos) const { return pos < sink_ ? pos : sink_ + (pos - sink_) % ring_; }
  uint8_t* k(int head) const { return memory_->data() + static_cast<size_t>(head) * head_bytes_; }
  uint8_t* v(int head) const { return memory_->data() + static_cast<size_t>(n_heads_ + head) * head_bytes_; }

  /// The slots a query at `pos` with this window sees, its own position included, as one or two ranges of slots.
  int SlotRanges(int64_t pos, int64_t window, RowRange ranges[2]) const;

  /// The ring of all heads, for snapshots (of codes, with the sinks that share a block with it): bytes of one snapshot.
  size_t ring_bytes() const { return 2 * static_cast<size_t>(n_heads_) * ring_bytes_; }
  /// Copies every head's ring to `dst`, or back from it; ring_bytes() each.
  void SaveRing(Backend* backend, uint8_t* dst) const;
  void LoadRing(Backend* backend, const uint8_t* src);
  /// Copies everything from a cache of the same layout.
  void CopyFrom(Backend* backend, const StreamingCache& other);

 private:
  DeviceMemoryPtr memory_;  // null when n_heads == 0
  int n_heads_ = 0;
  int64_t sink_ = 0;
  int64_t ring_ = 1;
  size_t ring_begin_ = 0;  // bytes of a head before what snapshots copy
  size_t ring_bytes_ = 0;  // bytes of a head that they copy
  size_t head_bytes_ = 0;
};

}  // namespace duo
