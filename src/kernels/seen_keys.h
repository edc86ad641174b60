// Which keys a block of queries can see: what blocks of scores are made of in attention's gradient.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/mask.h"

namespace duo {

/// Keys at positions [0, n_sinks) and [body, end), n_sinks <= body <= end; row r of them is at pos(r).
struct SeenKeys {
  int64_t n_sinks;
  int64_t body;
  int64_t end;
  constexpr int64_t count() const { return n_sinks + end - body; }
  constexpr int64_t pos(int64_t row) const { return row < n_sinks ? row : body + row - n_sinks; }
};

/// Every key that any query at a position in [begin, end) sees. Not each of them sees all of these, and some may be
/// seen by none: Sees decides.
inline SeenKeys KeysSeenBy(const LambdaMask& mask, int64_t begin, int64_t end) {
  const int64_t first = mask.window > begin ? 0 : begin - mask.window + 1;
  const int64_t n_sinks = std::min({mask.sink, first, end});
  return {n_sinks, std::max(first, n_sinks), end};
}

/// At least KeysSeenBy(...).count() for every block of `block` queries of a sequence of n_tokens.
inline int64_t MostSeenKeys(const LambdaMask& mask, int64_t n_tokens, int64_t block) {
  if (mask.window >= n_tokens) return n_tokens;
  return std::min(n_tokens, std::min(mask.sink, n_tokens) + mask.window + block);
}

}  // namespace duo
