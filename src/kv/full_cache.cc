#include "kv/full_cache.h"

#include <algorithm>

#include "base/align.h"
#include "base/check.h"

namespace duo {
namespace {

// A growth step adds at least this share of the committed rows, so that steps are rare. Committed memory is only taken
// when it is touched. But a huge page is touched as a whole, so the share also bounds how far resident memory runs
// ahead.
constexpr int64_t kGrowthShare = 32;
constexpr int64_t kMinGrowthRows = 256;

size_t StrideOf(const KvLayout& layout) {
  const size_t bytes = layout.bytes_of(layout.capacity);
  // Heads that are long enough to use huge pages begin on one.
  return RoundUp(bytes, bytes >= 4 * kHugePageBytes ? kHugePageBytes : kPageBytes);
}

}  // namespace

uint64_t FullCache::PageBytes(const KvLayout& layout, int n_heads, uint64_t page) {
  const auto parts = 2 * static_cast<uint64_t>(n_heads);
  const size_t stride = StrideOf(layout);
  // Each K and each V wastes at most parts of its first and last page. All of them together waste at most the pages
  // that they are in.
  return std::min(parts * page * (stride % page == 0 ? 1 : 2), RoundUp(parts * stride, page));
}

Result<FullCache> FullCache::Create(Backend* backend, const KvLayout& layout, int n_heads) {
  FullCache cache;
  cache.n_heads_ = n_heads;
  cache.layout_ = layout;
  if (n_heads == 0) return cache;
  cache.head_stride_ = StrideOf(layout);
  DUO_ASSIGN_OR_RETURN(cache.memory_, backend->Reserve(cache.head_stride_ * 2 * n_heads));
  return cache;
}

Status FullCache::EnsureRows(int64_t n_rows) {
  if (n_heads_ == 0 || n_rows <= committed_) return OkStatus();
  DUO_CHECK(n_rows <= layout_.capacity, "rows beyond the cache's capacity");
  int64_t target = n_rows;
  if (committed_ > 0) target = std::max(target, committed_ + std::max(kMinGrowthRows, committed_ / kGrowthShare));
  target = std::min(target, layout_.capacity);
  const size_t begin = layout_.bytes_of(committed_), bytes = layout_.bytes_of(target) - begin;
  for (int part = 0; part < 2 * n_heads_; ++part) {
    DUO_RETURN_IF_ERROR(memory_->Commit(part * head_stride_ + begin, bytes));
  }
  committed_ = target;
  return OkStatus();
}

}  // namespace duo
