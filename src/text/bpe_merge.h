// Byte-pair merging of one run of symbols in O(n log n).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/merge_table.h"

namespace duo {

/// Applies the merge rules to a run of initial symbols. The lowest rank always merges first, and on ties the leftmost
/// pair, exactly as in the reference library. The object keeps its buffers between calls: use one per thread.
class BpeMerger {
 public:
  /// Appends the merged ids to `out`. `symbols` has fewer than 2^32 entries.
  void Merge(const MergeTable& merges, std::span<const int32_t> symbols, std::vector<int32_t>* out);

 private:
  void Offer(const MergeTable& merges, uint32_t left, uint32_t right);

  // The symbols form a doubly linked list over positions. A symbol that was merged away has id kGone.
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
