#include "kv/split_kv_cache.h"

#include <algorithm>
#include <functional>
#include <iterator>

#include "base/check.h"
#include "base/error.h"
#include "base/rng.h"

namespace duo {

// Invariants between calls:
//
// Row p of every retrieval head holds position p, for p in [0, len_). Slot p of every streaming head holds sink p, for
// p < min(sink, len_). The rings hold the other positions of [lowest_held_, len_), and len_ - lowest_held_ <= ring.
//
// A next token at pos sees positions [pos - ring + 1, pos] at most, and the sinks. So the rings suffice for it when
// lowest_held_ <= max(sink, pos - ring + 1). A Rewind to such a pos copies nothing.
//
// The keys of snapshots_ are multiples of snapshot_every and at most len_. Rewind drops the later ones.

Result<SplitKvCache> SplitKvCache::Create(Backend* backend, const KvLayout& layout) {
  DUO_RETURN_IF_ERROR(CheckKvLayout(layout));
  SplitKvCache cache;
  cache.backend_ = backend;
  cache.layout_ = layout;
  for (int layer = 0; layer < layout.heads.n_layers; ++layer) {
    // Heads of one kind lie together in memory, so a head's place is its number among the layer's heads of its kind.
    int n_full = 0, n_streaming = 0;
    for (int head = 0; head < layout.heads.n_kv_heads; ++head) {
      const bool retrieval = layout.heads.is_retrieval(layer, head);
      cache.places_.push_back({retrieval, retrieval ? n_full++ : n_streaming++});
    }
    DUO_ASSIGN_OR_RETURN(FullCache full, FullCache::Create(backend, layout, n_full));
    cache.full_.push_back(std::move(full));
    DUO_ASSIGN_OR_RETURN(StreamingCache streaming, StreamingCache::Create(backend, layout, n_streaming));
    cache.streaming_.push_back(std::move(streaming));
  }
  return cache;
}

void KvHead::SlotRanges(int64_t pos, int64_t window, RowRange ranges[2]) const {
  if (!retrieval()) return streaming_->SlotRanges(pos, window, ranges);
  ranges[0] = {0, pos + 1};
  ranges[1] = {};
}

Status SplitKvCache::Expect(int64_t n_tokens) { return EnsureRows(n_tokens); }

bool SplitKvCache::SnapshotDue(int64_t n_tokens) const {
  const int64_t every = layout_.snapshot_every;
  return every != 0 && n_tokens > 0 && (len_ + n_tokens) % every == 0 && SnapshotSize() != 0;
}

// All that can fail is here. So Advance cannot fail after the rows of a step were written.
Status SplitKvCache::Begin(int64_t n_tokens) {
  DUO_RETURN_IF_ERROR(EnsureRows(n_tokens));
  // A step that failed after its Begin leaves the memory of its snapshot for the next one.
  if (!SnapshotDue(n_tokens) || next_snapshot_ != nullptr) return OkStatus();
  auto memory = backend_->Allocate(SnapshotSize());
  if (!memory.ok()) return memory.status().Annotate("ring snapshot");
  next_snapshot_ = std::move(*memory);
  return OkStatus();
}

// Only rows of retrieval heads need new memory. Streaming heads have had all of their slots since Create.
Status SplitKvCache::EnsureRows(int64_t n_tokens) {
  if (n_tokens < 0 || n_tokens > layout_.capacity - len_) {
    return ResourceExhausted("{} more tokens do not fit: the cache holds {} tokens and was made for {}", n_tokens, len_,
                             layout_.capacity);
  }
  for (FullCache& full : full_) DUO_RETURN_IF_ERROR(full.EnsureRows(len_ + n_tokens));
  return OkStatus();
}

bool SplitKvCache::GrowsWith(int64_t n_tokens) const {
  if (SnapshotDue(n_tokens)) return true;
  for (const FullCache& full : full_) {
    if (full.n_heads() != 0 && len_ + n_tokens > full.committed_rows()) return true;
  }
  return false;
}

uint64_t SplitKvCache::PageBytes(const KvLayout& layout, uint64_t page) {
  if (page == 1) return 0;  // memory is given to the byte
  uint64_t bytes = 0;
  for (int layer = 0; layer < layout.heads.n_layers; ++layer) {
    int n_retrieval = 0;
    for (int head = 0; head < layout.heads.n_kv_heads; ++head) n_retrieval += layout.heads.is_retrieval(layer, head);
    bytes += FullCache::PageBytes(layout, n_retrieval, page) + (n_retrieval < layout.heads.n_kv_heads ? page : 0);
  }
  return bytes;
}

Status SplitKvCache::FillSynthetic(int64_t n_tokens, uint64_t seed) {
  DUO_RETURN_IF_ERROR(EnsureRows(n_tokens));
  // Copies one table of random rows again and again. Speed does not depend on the values being independent.
  Rng rng(seed);
  constexpr int64_t kTableRows = 1024;
  std::vector<float> values(kTableRows * layout_.head_dim);
  for (float& value : values) value = static_cast<float>(rng.Normal());
  DUO_ASSIGN_OR_RETURN(DeviceMemoryPtr table, backend_->Allocate(2 * layout_.bytes_of(kTableRows)));
  DUO_ASSIGN_OR_RETURN(DeviceMemoryPtr floats, backend_->Allocate(values.size() * sizeof(float)));
  backend_->FromHost(values.data(), floats->data(), values.size() * sizeof(float));
  const auto* source = reinterpret_cast<const float*>(floats->data());
  uint8_t* const tables[] = {table->data(), table->data() + layout_.bytes_of(kTableRows)};
  const StoreTask stores[] = {{source, layout_.head_dim, tables[0], 0, kTableRows, KvPart::kKeys},
                              {source, layout_.head_dim, tables[1], 0, kTableRows, KvPart::kValues}};
  backend_->StoreRows(stores, layout_.head_dim, layout_.type);
  std::vector<CopyRowsTask> tasks;
  const auto fill = [&](const KvHead& head, KvPart part, RowRange rows) {
    for (int64_t row = rows.begin; row < rows.end;) {  // aligned with the table's rows, so that whole blocks are copied
      const int64_t n = std::min(kTableRows - row % kTableRows, rows.end - row);
      tasks.push_back({tables[part == KvPart::kKeys ? 0 : 1], row % kTableRows, head.rows(part), row, n, part});
      row += n;
    }
  };
  // A ring is full after any long text, whichever positions its slots stand for. So all slots are filled.
  const RowRange added{len_, len_ + n_tokens}, all_slots{0, layout_.sink + layout_.ring()};
  for (int layer = 0; layer < layout_.heads.n_layers; ++layer) {
    for (int h = 0; h < layout_.heads.n_kv_heads; ++h) {
      const KvHead head = this->head(layer, h);
      for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
        fill(head, part, head.retrieval() ? added : all_slots);
      }
    }
  }
  backend_->CopyRows(tasks, layout_.head_dim, layout_.type);
  len_ += n_tokens;
  longest_ = std::max(longest_, len_);
  lowest_held_ = std::max(lowest_held_, len_ - layout_.ring());
  return OkStatus();
}

int64_t SplitKvCache::TokensToSnapshot() const {
  if (layout_.snapshot_every == 0) return INT64_MAX;
  return layout_.snapshot_every - len_ % layout_.snapshot_every;
}

void SplitKvCache::Advance(int64_t n_tokens) {
  DUO_CHECK(n_tokens <= TokensToSnapshot(), "a step must not cross the point where a snapshot is due");
  const bool due = SnapshotDue(n_tokens);
  len_ += n_tokens;
  longest_ = std::max(longest_, len_);
  lowest_held_ = std::max(lowest_held_, len_ - layout_.ring());
  if (!due) return;
  // Later tokens overwrite the rings, so they are saved now, while they end at the snapshot's position.
  uint8_t* dst = next_snapshot_->data();
  for (const StreamingCache& streaming : streaming_) {
    if (streaming.n_heads() == 0) continue;
    streaming.SaveRing(backend_, dst);
    dst += streaming.ring_bytes();
  }
  snapshots_[len_] = std::move(next_snapshot_);
}

size_t SplitKvCache::SnapshotSize() const {
  size_t bytes = 0;
  for (const StreamingCache& streaming : streaming_) bytes += streaming.ring_bytes();
  return bytes;
}

int64_t SplitKvCache::LowestNeeded(int64_t pos) const { return std::max(layout_.sink, pos - layout_.ring() + 1); }

// Without streaming heads there is nothing that a later token could have overwritten.
bool SplitKvCache::RingsHold(int64_t pos) const {
  return SnapshotSize() == 0 || lowest_held_ <= LowestNeeded(pos) || pos == len_;
}

int64_t SplitKvCache::HeldAt(int64_t pos) const {
  if (RingsHold(pos)) return pos;
  const auto after = snapshots_.upper_bound(pos);
  // An empty cache is a snapshot that always exists.
  return after == snapshots_.begin() ? 0 : std::prev(after)->first;
}

int64_t SplitKvCache::Rewind(int64_t pos) {
  DUO_CHECK(pos >= 0 && pos <= len_, "rewind outside the cache");
  const int64_t held = HeldAt(pos);
  // The tokens after pos will be others, so snapshots of them would be wrong.
  snapshots_.erase(snapshots_.upper_bound(pos), snapshots_.end());
  const bool rings_hold = RingsHold(pos);
  len_ = held;
  if (rings_hold) {
    // Slots of later positions stay in the rings, but nothing reads them before they are written again.
    lowest_held_ = std::min(lowest_held_, pos);
    return len_;
  }
  LoadSnapshot(held);
  return len_;
}

void SplitKvCache::LoadSnapshot(int64_t at) {
  lowest_held_ = std::max<int64_t>(0, at - layout_.ring());
  if (at == 0) return;  // the empty cache has no rows to load
  const uint8_t* src = snapshots_.at(at)->data();
  for (StreamingCache& streaming : streaming_) {
    if (streaming.n_heads() == 0) continue;
    streaming.LoadRing(backend_, src);
    src += streaming.ring_bytes();
  }
}

Result<SplitKvCache> SplitKvCache::ClonePrefix(int64_t pos) const {
  DUO_CHECK(pos >= 0 && pos <= len_, "a prefix of the cache");
  const int64_t held = HeldAt(pos);
  DUO_ASSIGN_OR_RETURN(SplitKvCache copy, Create(backend_, layout_));
  DUO_RETURN_IF_ERROR(copy.EnsureRows(held));
  // The copy shares nothing with this cache, so both may grow, rewind and end in any order.
  std::vector<CopyTask> tasks;
  for (size_t layer = 0; layer < full_.size(); ++layer) {
    const FullCache& from = full_[layer];
    const FullCache& to = copy.full_[layer];
    const size_t bytes = layout_.bytes_of(held);
    for (int head = 0; head < from.n_heads(); ++head) {
      for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
        tasks.push_back({from.rows(part, head), to.rows(part, head), bytes});
      }
    }
  }
  backend_->Copy(tasks);
  // When the rings hold what pos needs, the copy keeps them as they are. Otherwise LoadSnapshot below overwrites them.
  // The sinks are the same in both cases.
  for (size_t layer = 0; layer < streaming_.size(); ++layer) {
    copy.streaming_[layer].CopyFrom(backend_, streaming_[layer]);
  }
  for (const auto& [at, memory] : snapshots_) {
    if (at > pos) break;
    DUO_ASSIGN_OR_RETURN(DeviceMemoryPtr own, backend_->Allocate(memory->bytes()));
    const CopyTask task{memory->data(), own->data(), own->bytes()};
    backend_->Copy({&task, 1});
    copy.snapshots_.emplace(at, std::move(own));
  }
  copy.len_ = held;
  copy.longest_ = held;  // the copy has backed no more rows than these
  if (RingsHold(pos)) {
    copy.lowest_held_ = std::min(lowest_held_, pos);
  } else {
    copy.LoadSnapshot(held);
  }
  return copy;
}

SplitKvCache::Extent SplitKvCache::extent() const {
  Extent extent{.len = len_, .lowest_held = lowest_held_, .snapshots = {}};
  for (const auto& entry : snapshots_) extent.snapshots.push_back(entry.first);
  return extent;
}

Status SplitKvCache::SetExtent(const Extent& extent) {
  DUO_CHECK(len_ == 0 && longest_ == 0, "only an empty cache");
  // The numbers may come from a file. They are checked before memory is taken for them.
  const bool ordered = std::adjacent_find(extent.snapshots.begin(), extent.snapshots.end(), std::greater_equal<>()) ==
                       extent.snapshots.end();
  const bool due = std::all_of(extent.snapshots.begin(), extent.snapshots.end(), [&](int64_t at) {
    return layout_.snapshot_every > 0 && at > 0 && at <= extent.len && at % layout_.snapshot_every == 0;
  });
  if (extent.len < 0 || extent.lowest_held < 0 || extent.lowest_held > extent.len ||
      extent.lowest_held < extent.len - layout_.ring() || !ordered || !due ||
      (SnapshotSize() == 0 && !extent.snapshots.empty())) {
    return InvalidArgument("no cache with this layout can have this length, lowest_held and snapshots");
  }
  DUO_RETURN_IF_ERROR(EnsureRows(extent.len));
  for (const int64_t at : extent.snapshots) {
    DUO_ASSIGN_OR_RETURN(snapshots_[at], backend_->Allocate(SnapshotSize()));
  }
  len_ = extent.len;
  longest_ = extent.len;
  lowest_held_ = extent.lowest_held;
  return OkStatus();
}

Status SplitKvCache::VisitBytes(const BytesCallback& visit) const {
  // This order is the order of a saved file's tensors (engine/session_header.cc).
  const size_t rows = layout_.bytes_of(len_);
  for (size_t layer = 0; layer < full_.size(); ++layer) {
    for (int head = 0; rows != 0 && head < full_[layer].n_heads(); ++head) {
      for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
        DUO_RETURN_IF_ERROR(visit(full_[layer].rows(part, head), rows));
      }
    }
    if (streaming_[layer].n_heads() != 0) {
      DUO_RETURN_IF_ERROR(visit(streaming_[layer].rows(KvPart::kKeys, 0), streaming_[layer].bytes()));
    }
  }
  for (const auto& entry : snapshots_) DUO_RETURN_IF_ERROR(visit(entry.second->data(), entry.second->bytes()));
  return OkStatus();
}

uint64_t SplitKvCache::ExtentBytes(const KvLayout& layout, const Extent& extent) {
  // The sum of what VisitBytes visits, known without a cache.
  uint64_t bytes = layout.FixedBytes();
  const auto full_heads = static_cast<uint64_t>(layout.heads.n_retrieval());
  bytes += 2 * full_heads * layout.bytes_of(extent.len);
  return bytes + extent.snapshots.size() * layout.SnapshotBytes(layout.snapshot_every);
}

uint64_t SplitKvCache::bytes() const {
  uint64_t bytes = layout_.BytesPerToken() * static_cast<uint64_t>(len_) + layout_.FixedBytes();
  for (const auto& entry : snapshots_) bytes += entry.second->bytes();
  return bytes;
}

}  // namespace duo
