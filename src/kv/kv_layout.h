// Sizes of the split KV cache, computed before anything is allocated. `duo plan` and the cache itself use these.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/dtype.h"
#include "duo/head_pattern.h"
#include "duo/result.h"

namespace duo {

/// What a cache is made for. Fixed for its lifetime.
struct KvLayout {
  HeadChoice heads;
  int head_dim = 0;
  KvType type = KvType::kBF16;
  int64_t sink = 0;            // tokens streaming heads keep from the start (a pinned prefix makes it longer)
  int64_t recent = 1;          // window of generated tokens, >= 1
  int64_t prefill_recent = 1;  // window of prompt tokens, >= recent
  int64_t capacity = 0;        // most tokens the cache can ever hold (address space, not memory)
  int64_t snapshot_every = 0;  // tokens between ring snapshots; 0 = none

  /// Rows of the ring behind the sinks: the longer of both windows.
  int64_t ring() const { return prefill_recent > recent ? prefill_recent : recent; }
  size_t row_bytes() const { return KvRowBytes(type, head_dim); }
  /// Of n_rows rows of one head's K or V.
  size_t bytes_of(int64_t n_rows) const { return KvBytes(type, head_dim, n_rows); }
  /// What a ring snapshot copies of one head's K or V: the sinks' last block may have rows of the ring.
  size_t ring_begin() const { return bytes_of(sink / KvBlockRows(type) * KvBlockRows(type)); }
  size_t ring_bytes() const { return bytes_of(sink + ring()) - ring_begin(); }

  /// Bytes of K and V that one more token adds: retrieval heads only.
  uint64_t BytesPerToken() const;
  /// Bytes of K and V of all streaming heads, whatever the length.
  uint64_t FixedBytes() const;
  /// Bytes of the snapshots that a cache of n_tokens holds.
  uint64_t SnapshotBytes(int64_t n_tokens) const;
  /// All of it at n_tokens.
  uint64_t TotalBytes(int64_t n_tokens) const {
    return BytesPerToken() * static_cast<uint64_t>(n_tokens) + FixedBytes() + SnapshotBytes(n_tokens);
  }
};

/// kInvalidArgument for contradictory or absurd values: every product of the fields then fits 63 bits.
Status CheckKvLayout(const KvLayout& layout);

}  // namespace duo
