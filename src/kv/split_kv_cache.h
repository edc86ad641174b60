// The split KV cache of one sequence (DuoAttention, section 2.3). Retrieval heads keep every token. Streaming heads
// keep their sinks and a ring of recent tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "backend/backend.h"
#include "kv/full_cache.h"
#include "kv/kv_layout.h"
#include "kv/streaming_cache.h"

namespace duo {

/// One KV head of a layer, in the cache of its kind. A view: the cache must outlive it.
class KvHead {
 public:
  KvHead(const FullCache& cache, int index) : full_(&cache), index_(index) {}
  KvHead(const StreamingCache& cache, int index) : streaming_(&cache), index_(index) {}

  bool retrieval() const { return full_ != nullptr; }
  /// Its index among the layer's heads of its kind.
  int index() const { return index_; }
  /// Row 0 of its keys or values.
  uint8_t* rows(KvPart part) const { return retrieval() ? full_->rows(part, index_) : streaming_->rows(part, index_); }
  /// The row that holds position pos.
  int64_t Slot(int64_t pos) const { return retrieval() ? pos : streaming_->Slot(pos); }
  /// The rows that a query at `pos` sees, its own position included. The window is that of streaming heads.
  void SlotRanges(int64_t pos, int64_t window, RowRange ranges[2]) const;

 private:
  const FullCache* full_ = nullptr;  // one of the two is null
  const StreamingCache* streaming_ = nullptr;
  int index_;
};

/// All layers have the same length. To add tokens, Begin() allocates their rows, DuoAttention writes the rows of every
/// layer, and Advance() adds them to the length. Not thread safe.
class SplitKvCache {
 public:
  /// Checks the layout and reserves address space. kInvalidArgument, kResourceExhausted. `backend` must outlive the
  /// cache.
  static Result<SplitKvCache> Create(Backend* backend, const KvLayout& layout);

  /// Upper bound of the bytes that whole pages of `page` bytes (Backend::CommitBytes) take in addition to the layout's.
  /// 0 when a page is one byte, as on the CPU.
  static uint64_t PageBytes(const KvLayout& layout, uint64_t page);

  const KvLayout& layout() const { return layout_; }
  int64_t len() const { return len_; }  // tokens in the cache

  /// Optional: announces n_tokens that will be added in several steps. Their rows are backed at once, with huge pages
  /// where they fill some. Errors as Begin.
  Status Expect(int64_t n_tokens);
  /// Whether Begin(n_tokens) would allocate memory.
  bool GrowsWith(int64_t n_tokens) const;
  /// Allocates the rows of n_tokens after len(), and a snapshot if one is due after them. Returns kResourceExhausted
  /// beyond the capacity or the system's memory. The cache then holds the same tokens as before.
  Status Begin(int64_t n_tokens);
  /// Adds n_tokens to len(). Begin has allocated their rows, and the rows have been written. Must not cross a multiple
  /// of snapshot_every (see TokensToSnapshot). When the new len() is such a multiple, copies the rings to a snapshot.
  void Advance(int64_t n_tokens);
  /// Number of tokens until the next snapshot is due; INT64_MAX without snapshots.
  int64_t TokensToSnapshot() const;

  /// Adds n_tokens of random finite values to every head, as Begin and Advance would, for measuring speed at a context
  /// length. Takes no snapshots.
  Status FillSynthetic(int64_t n_tokens, uint64_t seed);

  /// Shortens the cache to the largest length <= pos for which the rings or a snapshot hold every row that the next
  /// token needs. Returns the new len(). The tokens from there to pos must be added again; with snapshots they are at
  /// most snapshot_every. pos must be in [0, len()].
  int64_t Rewind(int64_t pos);
  /// The length that Rewind(pos) would return.
  int64_t HeldAt(int64_t pos) const;

  /// An independent copy of the first HeldAt(pos) tokens, with their snapshots. kResourceExhausted.
  Result<SplitKvCache> ClonePrefix(int64_t pos) const;

  /// The length and the snapshots of a cache, without its bytes.
  struct Extent {
    int64_t len = 0;
    int64_t lowest_held = 0;         // the rings hold the positions from here to len
    std::vector<int64_t> snapshots;  // lengths at which they were taken, ascending
  };
  Extent extent() const;
  /// Gives an empty cache this extent. The caller then sets its bytes with VisitBytes. kInvalidArgument when no cache
  /// of this layout can have this extent; kResourceExhausted.
  Status SetExtent(const Extent& extent);
  /// Visits all bytes of the cache, in an order that depends only on layout and extent. Stops at the first error of
  /// `visit`.
  using BytesCallback = std::function<Status(uint8_t* data, size_t bytes)>;
  Status VisitBytes(const BytesCallback& visit) const;
  /// The number of bytes that VisitBytes visits.
  static uint64_t ExtentBytes(const KvLayout& layout, const Extent& extent);

  KvHead head(int layer, int kv_head) const {
    const Place place = places_[layer * layout_.heads.n_kv_heads + kv_head];
    return place.retrieval ? KvHead(full_[layer], place.index) : KvHead(streaming_[layer], place.index);
  }
  FullCache& full(int layer) { return full_[layer]; }
  const FullCache& full(int layer) const { return full_[layer]; }
  const StreamingCache& streaming(int layer) const { return streaming_[layer]; }
  StreamingCache& streaming(int layer) { return streaming_[layer]; }

  /// Bytes of K, V and snapshots in use now.
  uint64_t bytes() const;
  /// The largest len() so far. Rows below it take memory, even after a rewind.
  int64_t longest() const { return longest_; }

 private:
  /// The index of a KV head in its layer's full cache or streaming cache.
  struct Place {
    bool retrieval = true;
    int index = 0;
  };
  SplitKvCache() = default;
  size_t SnapshotSize() const;
  /// Whether a snapshot is due after n_tokens more.
  bool SnapshotDue(int64_t n_tokens) const;
  Status EnsureRows(int64_t n_tokens);
  /// Whether the rings hold every row that a next token at pos needs.
  bool RingsHold(int64_t pos) const;
  /// Restores the rings as they were at length `at`, which is 0 or has a snapshot.
  void LoadSnapshot(int64_t at);
  /// The lowest position whose row the rings must hold for a next token at pos.
  int64_t LowestNeeded(int64_t pos) const;

  Backend* backend_ = nullptr;
  KvLayout layout_;
  std::vector<Place> places_;                     // [n_layers, n_kv_heads]
  std::vector<FullCache> full_;                   // [n_layers]
  std::vector<StreamingCache> streaming_;         // [n_layers]
  std::map<int64_t, DeviceMemoryPtr> snapshots_;  // by the len() at which they were taken
  DeviceMemoryPtr next_snapshot_;                 // memory for the next snapshot, not yet written; may be null
  int64_t len_ = 0;
  int64_t longest_ = 0;
  int64_t lowest_held_ = 0;  // every position in [lowest_held_, len_) is in the rings (or a sink)
};

}  // namespace duo
