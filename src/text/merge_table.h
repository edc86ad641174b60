// The merge rules of a BPE vocabulary: a table from (left id, right id) to rank and merged id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace duo {

struct MergeRule {
  uint32_t rank;  // lower ranks merge first
  int32_t id;     // id of the merged token
};

/// Open addressing over flat arrays: a lookup touches one or two cache lines, and encoding spends its time on lookups.
class MergeTable {
 public:
  /// Reserves room for n rules.
  explicit MergeTable(size_t n = 0);

  /// A later rule for the same pair replaces the earlier one, as in the reference.
  void Set(int32_t left, int32_t right, MergeRule rule);
  /// Null when the pair never merges.
  const MergeRule* Find(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (size_t i = Slot(key);; i = (i + 1) & mask_) {
      if (keys_[i] == key) return &rules_[i];
      if (keys_[i] == kEmpty) return nullptr;
    }
  }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;  // never a real key, because ids are not negative
  static uint64_t Key(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
  }
  size_t Slot(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> 32 & mask_; }

  size_t mask_;
  std::vector<uint64_t> keys_;
  std::vector<MergeRule> rules_;
};

}  // namespace duo
