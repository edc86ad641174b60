// The split KV cache of one sequence: DuoAttention section 2.3. Retrieval heads keep every token, streaming heads their
// sinks and a ring of recent ones.
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

/// Where one KV head of a layer lives: index within the layer's full or streaming cache.
struct HeadPlace {
  bool retrieval = true;
  int index = 0;
};

/// Lengths advance per token for all layers together: Begin() makes room for the coming tokens, the attention room
/// writes every layer's rows, Advance() makes them count. Not thread safe.
class SplitKvCache {
 public:
  /// Checks the layout and reserves. kInvalidArgument, kResourceExhausted. `backend` must outlive the cache.
  static Result<SplitKvCache> Create(Backend* backend, const KvLayout& layout);

  /// Most bytes by which whole pages of `page` bytes (Backend::CommitBytes) exceed what the layout counts; 0 when a
  /// page is one byte, as on the CPU.
  static uint64_t PageBytes(const KvLayout& layout, uint64_t page);

  const KvLayout& layout() const { return layout_; }
  int64_t len() const { return len_; }  // tokens in the cache

  /// Announces n_tokens that will come in several steps: their rows are backed at once, with huge pages where they fill
  /// some. Optional. Errors as Begin.
  Status Expect(int64_t n_tokens);
  /// Whether Begin(n_tokens) would take more memory than it has.
  bool GrowsWith(int64_t n_tokens) const;
  /// Room for n_tokens behind len(), and for the snapshot that is due when they end on one. kResourceExhausted beyond
  /// the capacity or the system's memory; the cache is then what it was.
  Status Begin(int64_t n_tokens);
  /// The n_tokens behind len(), for which Begin made room, are now part of the cache. Must not cross a multiple of
  /// snapshot_every (see TokensToSnapshot); when it ends on one, the rings are copied.
  void Advance(int64_t n_tokens);
  /// How many tokens may be added before the next snapshot is due; INT64_MAX without snapshots.
  int64_t TokensToSnapshot() const;

  /// Adds n_tokens of random finite values to every head, as Begin and Advance would: for measuring speed at a depth.
  /// Takes no snapshots.
  Status FillSynthetic(int64_t n_tokens, uint64_t seed);

  /// Goes back so that the next token comes at a position <= pos: the largest from which every row that is needed is
  /// held, by the rings themselves or by a snapshot. Returns that position (== len()); tokens from there to pos have to
  /// be added again, at most snapshot_every when snapshots are on. pos in [0, len()].
  int64_t Rewind(int64_t pos);
  /// What Rewind(pos) would return.
  int64_t HeldAt(int64_t pos) const;

  /// An independent copy of the first HeldAt(pos) tokens, with their snapshots. kResourceExhausted.
  Result<SplitKvCache> ClonePrefix(int64_t pos) const;

  /// How far the cache is filled, without its bytes.
  struct Extent {
    int64_t len = 0;
    int64_t lowest_held = 0;         // positions from here on are in the rings
    std::vector<int64_t> snapshots;  // positions, ascending
  };
  Extent extent() const;
  /// Makes an empty cache one of this extent whose bytes are yet to be set by VisitBytes. kInvalidArgument when no
  /// cache of this layout has such an extent; kResourceExhausted.
  Status SetExtent(const Extent& extent);
  /// Everything that an extent's bytes are, in an order that depends on layout and extent alone.
  using BytesCallback = std::function<Status(uint8_t* data, size_t bytes)>;
  Status VisitBytes(const BytesCallback& visit) const;
  /// The sum of what VisitBytes visits.
  static uint64_t ExtentBytes(const KvLayout& layout, const Extent& extent);

  HeadPlace place(int layer, int kv_head) const {
    return places_[static_cast<size_t>(layer * layout_.heads.n_kv_heads + kv_head)];
  }
  FullCache& full(int layer) { return full_[static_cast<size_t>(layer)]; }
  const FullCache& full(int layer) const { return full_[static_cast<size_t>(layer)]; }
  const StreamingCache& streaming(int layer) const { return streaming_[static_cast<size_t>(layer)]; }
  StreamingCache& streaming(int layer) { return streaming_[static_cast<size_t>(layer)]; }

  /// Bytes of K, V and snapshots in use now.
  uint64_t bytes() const;
  /// The longest the cache has been: rows below it are in memory, even after a rewind.
  int64_t longest() const { return longest_; }

 private:
  SplitKvCache() = default;
  size_t SnapshotSize() const;
  /// Whether n_tokens more end where a snapshot is due.
  bool SnapshotDue(int64_t n_tokens) const;
  Status EnsureRows(int64_t n_tokens);
  /// Whether the rings have all rows that a next token at pos needs.
  bool RingsHold(int64_t pos) const;
  /// The rings as they were at position `at`: 0, or one with a snapshot.
  void LoadSnapshot(int64_t at);
  /// The lowest position whose row the rings must hold for the next token at pos.
  int64_t LowestNeeded(int64_t pos) const;

  Backend* backend_ = nullptr;
  KvLayout layout_;
  std::vector<HeadPlace> places_;                 // [n_layers, n_kv_heads]
  std::vector<FullCache> full_;                   // [n_layers]
  std::vector<StreamingCache> streaming_;         // [n_layers]
  std::map<int64_t, DeviceMemoryPtr> snapshots_;  // by the len() they were taken at
  DeviceMemoryPtr next_snapshot_;                 // memory for the one that is due, empty yet
  int64_t len_ = 0;
  int64_t longest_ = 0;
  int64_t lowest_held_ = 0;  // every position in [lowest_held_, len_) is in the rings (or a sink)
};

}  // namespace duo
