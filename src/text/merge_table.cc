#include "text/merge_table.h"

#include <bit>

namespace duo {

MergeTable::MergeTable(size_t n)
    : mask_(std::bit_ceil(2 * n + 2) - 1), keys_(mask_ + 1, kEmpty), rules_(mask_ + 1, MergeRule{}) {}

void MergeTable::Set(int32_t left, int32_t right, MergeRule rule) {
  const uint64_t key = Key(left, right);
  size_t i = Slot(key);
  while (keys_[i] != kEmpty && keys_[i] != key) i = (i + 1) & mask_;
  keys_[i] = key;
  rules_[i] = rule;
}

}  // namespace duo
