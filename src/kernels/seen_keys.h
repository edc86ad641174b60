// The keys that a block of queries can see. They are the columns of a block of scores in attention's gradient.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/mask.h"

namespace duo {

/// Keys at positions [0, n_sinks) and [body, end), where n_sinks <= body <= end. Row r of them has position pos(r).
struct SeenKeys {
  int64_t n_sinks;
  int64_t body;
  int64_t end;
  constexpr int64_t count() const { return n_sinks + end - body; }
  constexpr int64_t pos(int64_t row) const { return row < n_sinks ? row : body + row - n_sinks; }
};

/// Contains every key that some query at a position in [begin, end) sees. A query need not see all of them, and a key
/// may be seen by no query. Sees() decides.
inline SeenKeys KeysSeenBy(const LambdaMask& mask, int64_t begin, int64_t end) {
  const int64_t first = mask.window > begin ? 0 : begin - mask.window + 1;
  const int64_t n_sinks = std::min({mask.sink, first, end});
  return {n_sinks, std::max(first, n_sinks), end};
}

/// An upper bound of KeysSeenBy(...).count() over all blocks of `block` queries of a sequence of n_tokens.
inline int64_t MostSeenKeys(const LambdaMask& mask, int64_t n_tokens, int64_t block) {
  if (mask.window >= n_tokens) return n_tokens;
  return std::min(n_tokens, std::min(mask.sink, n_tokens) + mask.window + block);
}

}  // namespace duo
