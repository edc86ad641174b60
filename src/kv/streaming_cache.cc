#include "kv/streaming_cache.h"

#include <algorithm>
#include <vector>

namespace duo {

Result<StreamingCache> StreamingCache::Create(Backend* backend, const KvLayout& layout, int n_heads) {
  StreamingCache cache;
  cache.n_heads_ = n_heads;
  cache.sink_ = layout.sink;
  cache.ring_ = layout.ring();
  cache.ring_begin_ = layout.ring_begin();
  cache.ring_bytes_ = layout.ring_bytes();
  cache.head_bytes_ = layout.bytes_of(layout.sink + cache.ring_);
  if (n_heads == 0) return cache;
  // Reserved pages read as zero. Slots that were never written may be saved to a file, which must not have other
  // memory's content.
  DUO_ASSIGN_OR_RETURN(cache.memory_, backend->Reserve(cache.bytes()));
  DUO_RETURN_IF_ERROR(cache.memory_->Commit(0, cache.bytes()));
  return cache;
}

void StreamingCache::SlotRanges(int64_t pos, int64_t window, RowRange ranges[2]) const {
  // Attention reads rows in any order, so a range may join sinks and ring, and a wrapped ring needs no copy.
  const int64_t sinks = std::min(sink_, pos + 1);
  const int64_t first = std::max(sink_, pos - std::min(window, ring_) + 1);
  ranges[0] = {0, sinks};
  ranges[1] = {};
  if (first > pos) return;
  const RowRange recent{Slot(first), Slot(pos) + 1};
  if (recent.begin >= recent.end) {  // wrapped around: the sinks with the ring's first rows, then the ring's last rows
    ranges[0].end = recent.end;
    ranges[1] = {recent.begin, sink_ + ring_};
  } else if (recent.begin == sinks) {
    ranges[0].end = recent.end;
  } else {
    ranges[sinks > 0 ? 1 : 0] = recent;
  }
}

// Sinks are not saved: they never change after the first tokens.
void StreamingCache::SaveRing(Backend* backend, uint8_t* dst) const {
  std::vector<CopyTask> tasks;
  for (int part = 0; part < 2 * n_heads_; ++part) {
    tasks.push_back({memory_->data() + part * head_bytes_ + ring_begin_, dst + part * ring_bytes_, ring_bytes_});
  }
  backend->Copy(tasks);
}

void StreamingCache::LoadRing(Backend* backend, const uint8_t* src) {
  std::vector<CopyTask> tasks;
  for (int part = 0; part < 2 * n_heads_; ++part) {
    tasks.push_back({src + part * ring_bytes_, memory_->data() + part * head_bytes_ + ring_begin_, ring_bytes_});
  }
  backend->Copy(tasks);
}

void StreamingCache::CopyFrom(Backend* backend, const StreamingCache& other) {
  if (n_heads_ == 0) return;
  // One block has the sinks and the ring, the keys and the values of all heads.
  const CopyTask task{other.memory_->data(), memory_->data(), bytes()};
  backend->Copy({&task, 1});
}

}  // namespace duo
