#include "kernels/cpu/attention/prefill_plan.h"

#include <algorithm>

#include "kernels/attention.h"

namespace duo {

int64_t PrefillBlockTokens(int group, int head_dim) {
  // Packed queries and output sums take 8 bytes per query and dimension, so 384 queries of 128 dimensions take 384 KiB.
  // Together with a tile of keys and values (up to 128 KiB) they fit a 1 MiB second-level cache. Each key row that
  // comes from memory is then multiplied 384 times.
  const int64_t queries =
      std::clamp<int64_t>(int64_t{384} * 128 / head_dim / kMaxQueryTile * kMaxQueryTile, kMaxQueryTile, 2 * 384);
  return std::max<int64_t>(1, queries / group);
}

size_t PrefillScratchBytes(int group, int head_dim) {
  return MakePrefillLayout(PrefillBlockTokens(group, head_dim), group, head_dim).total * sizeof(float);
}

}  // namespace duo
