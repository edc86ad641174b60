// Byte-pair merging of one run of symbols in O(n log n).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/merge_table.h"

namespace duo {

/// Applies the rules to a run of initial symbols: always the lowest rank first, the leftmost pair on ties, exactly as
/// the reference library does. Keeps its buffers between calls: one object per thread.
class BpeMerger {
 public:
  /// Appends the merged ids to `out`. `symbols` has fewer than 2^32 entries.
  void Merge(const MergeTable& merges, std::span<const int32_t> symbols, std::vector<int32_t>* out);

 private:
  void Offer(const MergeTable& merges, uint32_t left, uint32_t right);

  // The symbols as a doubly linked list over positions; a merged-away symbol has id kGone.
  std::vector<int32_t> id_;
  std::vector<uint32_t> prev_;
  std::vector<uint32_t> next_;
  struct Candidate {
    uint64_t order;  // rank, then position
    int32_t merged_id;
  };
  std::vector<Candidate> heap_;  // min-heap on order
};

}  // namespace duo
