// K and V of one layer's streaming heads: attention sinks and a ring of recent tokens. The size is constant.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "kv/kv_layout.h"

namespace duo {

/// [n_heads, sink + ring, head_dim] for K, then the same for V. Position p is in slot p when p < sink, else in slot
/// sink + (p - sink) % ring. So the ring holds the last `ring` positions that are not sinks.
class StreamingCache {
 public:
  StreamingCache() = default;
  /// kResourceExhausted. `backend` must outlive the cache.
  static Result<StreamingCache> Create(Backend* backend, const KvLayout& layout, int n_heads);

  int n_heads() const { return n_heads_; }
  /// Bytes of K and V of all heads, which begin at rows(KvPart::kKeys, 0).
  size_t bytes() const { return head_bytes_ * 2 * n_heads_; }
  int64_t Slot(int64_t pos) const { return pos < sink_ ? pos : sink_ + (pos - sink_) % ring_; }
  /// Row 0 of a head's keys or values.
  uint8_t* rows(KvPart part, int head) const {
    const int index = part == KvPart::kKeys ? head : n_heads_ + head;
    return memory_->data() + index * head_bytes_;
  }

  /// The slots that a query at `pos` with this window sees, its own position included. The second range is empty unless
  /// two are needed.
  void SlotRanges(int64_t pos, int64_t window, RowRange ranges[2]) const;

  /// Bytes of one snapshot: the rings of all heads, with the sinks that share a block of codes with them.
  size_t ring_bytes() const { return 2 * n_heads_ * ring_bytes_; }
  /// SaveRing copies the snapshot's ring_bytes() to `dst`; LoadRing copies them back from `src`.
  void SaveRing(Backend* backend, uint8_t* dst) const;
  void LoadRing(Backend* backend, const uint8_t* src);
  /// Copies everything from a cache of the same layout.
  void CopyFrom(Backend* backend, const StreamingCache& other);

 private:
  DeviceMemoryPtr memory_;  // null when n_heads == 0
  int n_heads_ = 0;
  int64_t sink_ = 0;
  int64_t ring_ = 1;
  size_t ring_begin_ = 0;  // offset in a head's K or V of the bytes that snapshots copy
  size_t ring_bytes_ = 0;  // bytes of a head's K or V that snapshots copy
  size_t head_bytes_ = 0;
};

}  // namespace duo
