// Sizes of the split KV cache, computed before anything is allocated. `duo plan` and the cache itself use these.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/dtype.h"
#include "duo/head_pattern.h"
#include "duo/result.h"

namespace duo {

/// The shape of a cache. Fixed for its lifetime.
struct KvLayout {
  HeadChoice heads;
  int head_dim = 0;
  KvType type = KvType::kBF16;
  int64_t sink = 0;            // first tokens that streaming heads keep, including a pinned prefix
  int64_t recent = 1;          // window of generated tokens, >= 1
  int64_t prefill_recent = 1;  // window of prompt tokens, >= recent
  int64_t capacity = 0;        // max tokens of the cache (address space, not memory)
  int64_t snapshot_every = 0;  // tokens between ring snapshots; 0 = none

  /// Rows of the ring, which follows the sinks: the longer of both windows.
  int64_t ring() const { return prefill_recent > recent ? prefill_recent : recent; }
  size_t row_bytes() const { return KvRowBytes(type, head_dim); }
  /// Bytes of n_rows rows of one head's K or V.
  size_t bytes_of(int64_t n_rows) const { return KvBytes(type, head_dim, n_rows); }
  /// A snapshot copies bytes [ring_begin(), ring_begin() + ring_bytes()) of one head's K or V. They begin at a whole
  /// block, so they include sinks that share a block with the ring.
  size_t ring_begin() const { return bytes_of(sink / KvBlockRows(type) * KvBlockRows(type)); }
  size_t ring_bytes() const { return bytes_of(sink + ring()) - ring_begin(); }

  /// Bytes of K and V that one more token adds, which only retrieval heads need.
  uint64_t BytesPerToken() const;
  /// Bytes of K and V of all streaming heads. They do not depend on the length.
  uint64_t FixedBytes() const;
  /// Bytes of the snapshots that a cache of n_tokens holds.
  uint64_t SnapshotBytes(int64_t n_tokens) const;
  /// Bytes of K, V and snapshots of a cache of n_tokens.
  uint64_t TotalBytes(int64_t n_tokens) const {
    return BytesPerToken() * static_cast<uint64_t>(n_tokens) + FixedBytes() + SnapshotBytes(n_tokens);
  }
};

/// kInvalidArgument for contradictory or absurd values. In a layout that passes, every product of the fields fits in 63
/// bits.
Status CheckKvLayout(const KvLayout& layout);

}  // namespace duo
