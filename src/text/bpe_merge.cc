#include "text/bpe_merge.h"

#include <algorithm>

namespace duo {
namespace {

constexpr int32_t kGone = -1;
constexpr uint32_t kNone = UINT32_MAX;

}  // namespace

void BpeMerger::Offer(const MergeTable& merges, uint32_t left, uint32_t right) {
  if (const MergeRule* rule = merges.Find(id_[left], id_[right])) {
    heap_.push_back({(static_cast<uint64_t>(rule->rank) << 32) | left, rule->id});
  }
}

// The heap holds a candidate for every adjacent pair that has a rule. It may also hold stale ones, which are skipped at
// the top. Positions order candidates of equal rank, so the leftmost pair merges first. A merge adds at most two
// candidates, so at most 3n are pushed: O(n log n).
void BpeMerger::Merge(const MergeTable& merges, std::span<const int32_t> symbols, std::vector<int32_t>* out) {
  const auto later = [](const Candidate& a, const Candidate& b) { return a.order > b.order; };
  const uint32_t n = symbols.size();
  id_.assign(symbols.begin(), symbols.end());
  prev_.resize(n);
  next_.resize(n);
  heap_.clear();
  for (uint32_t i = 0; i < n; ++i) {
    prev_[i] = i == 0 ? kNone : i - 1;
    next_[i] = i + 1 == n ? kNone : i + 1;
    if (i + 1 < n) Offer(merges, i, i + 1);
  }
  std::make_heap(heap_.begin(), heap_.end(), later);
  while (!heap_.empty()) {
    const Candidate top = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), later);
    heap_.pop_back();
    const uint32_t left = top.order;
    const uint32_t right = next_[left];
    if (id_[left] == kGone || right == kNone) continue;
    // A candidate may be stale. Like the reference, compare only merged ids, not ranks, so that the same pairs merge.
    const MergeRule* rule = merges.Find(id_[left], id_[right]);
    if (rule == nullptr || rule->id != top.merged_id) continue;
    id_[left] = top.merged_id;
    id_[right] = kGone;
    const uint32_t after = next_[left] = next_[right];
    if (after != kNone) prev_[after] = left;
    for (const uint32_t first : {prev_[left], left}) {
      if (first == kNone || next_[first] == kNone) continue;
      const size_t before = heap_.size();
      Offer(merges, first, next_[first]);
      if (heap_.size() != before) std::push_heap(heap_.begin(), heap_.end(), later);
    }
  }
  for (uint32_t i = 0; i != kNone && i < n; i = next_[i]) out->push_back(id_[i]);
}

}  // namespace duo
