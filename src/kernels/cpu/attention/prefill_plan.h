// The rows that prefill attention reads, and the layout of its scratch. Shared by all instruction sets.
// Plain old data, so instruction-set specific files may include this header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

namespace duo {

// Queries (tokens x heads of the group) are handled in tiles of at most this many: 3 vectors of 16 floats.
constexpr int kMaxQueryTile = 48;
// Maximum number of keys per tile. The scores of a query tile (24 KiB) then stay in a 32-48 KiB first-level cache.
constexpr int kMaxKeyTile = 128;
// Columns of a tile of keys made from codes. Its first row may be any of the 16 rows of a block.
constexpr int kMaxKeyColumns = kMaxKeyTile + 16;
// 32-bit units per tile and dimension, for widened keys, values or pairs of values.
constexpr int kTileUnits = 68;

/// Consecutive key rows at consecutive positions.
struct KeyRun {  // no member initialisers: they would create constructors, which an object file may export
  int64_t row;
  int64_t pos;
  int64_t n_rows;
};

/// The rows that at least one query of the block sees, in order. These are the sinks and the window. Each may be split
/// where the cache changes from sink rows to body rows, so there are at most 4 runs.
struct VisibleRuns {
  KeyRun run[4];
  int n;
};

static inline void AppendRun(VisibleRuns* runs, int64_t row0, int64_t pos0, int64_t n, int64_t begin, int64_t end) {
  const int64_t first = begin > pos0 ? begin : pos0;
  const int64_t last = end < pos0 + n ? end : pos0 + n;
  if (first >= last) return;
  KeyRun* run = &runs->run[runs->n++];
  run->row = row0 + (first - pos0);
  run->pos = first;
  run->n_rows = last - first;
}

static inline VisibleRuns FindVisibleRuns(const AttentionShape& shape, const PrefillHead& head) {
  const int64_t end = shape.q_pos + shape.n_tokens;  // no key at or after it is seen
  const int64_t window_begin = head.mask.window > shape.q_pos ? 0 : shape.q_pos - head.mask.window + 1;
  const int64_t sink_end = head.mask.sink < end ? head.mask.sink : end;
  const bool joined = window_begin <= sink_end;
  const int64_t first_end = joined ? end : sink_end;
  const int64_t second_begin = joined ? end : window_begin;
  const bool gapless = head.n_sink_rows == 0 || head.body_pos == head.n_sink_rows;
  VisibleRuns runs;
  runs.n = 0;
  if (!gapless) {
    AppendRun(&runs, 0, 0, head.n_sink_rows, 0, first_end);
    AppendRun(&runs, 0, 0, head.n_sink_rows, second_begin, end);
  }
  const int64_t row = gapless ? 0 : head.n_sink_rows;
  const int64_t pos = gapless && head.n_sink_rows > 0 ? 0 : head.body_pos;
  AppendRun(&runs, row, pos, head.n_rows - row, 0, first_end);
  AppendRun(&runs, row, pos, head.n_rows - row, second_begin, end);
  return runs;
}

/// Offsets into the scratch, in 4-byte units, each a multiple of 16 (64 bytes).
struct PrefillLayout {
  size_t queries;  // [query tile][unit][queries of the tile]: floats, bf16 pairs or 4 bytes
  size_t out;      // [query tile][padded dim][queries of the tile]: sum of p * v
  size_t max;      // [padded queries]: largest unscaled score, in the query's steps if queries are bytes
  size_t sum;      // [padded queries]
  size_t token;    // [padded queries] int32: token within the block
  size_t q_step;   // [padded queries]: step of a query rounded to bytes
  size_t q_sum;    // [padded queries]: sum of its bytes
  size_t scores;   // [key tile][queries of the tile]: scores, later weights
  size_t keys;     // [kTileUnits][padded dim]: keys widened to float; from codes [unit][column]
  size_t values;   // [kTileUnits][padded dim]: values widened to float, or pairs of rows
  size_t k_step;   // [kMaxKeyColumns]: steps of a tile of codes
  size_t k_low;    // [kMaxKeyColumns]: lows of a tile of codes
  size_t total;
  int64_t n_queries;
  int64_t padded_queries;  // multiple of kMaxQueryTile
  int padded_dim;          // multiple of 32
};

static inline PrefillLayout MakePrefillLayout(int64_t n_tokens, int group, int head_dim) {
  PrefillLayout l;
  l.n_queries = n_tokens * group;
  l.padded_queries = (l.n_queries + kMaxQueryTile - 1) / kMaxQueryTile * kMaxQueryTile;
  l.padded_dim = (head_dim + 31) / 32 * 32;
  const size_t queries = l.padded_queries;
  const size_t dim = l.padded_dim;
  l.queries = 0;
  l.out = l.queries + queries * dim;
  l.max = l.out + queries * dim;
  l.sum = l.max + queries;
  l.token = l.sum + queries;
  l.q_step = l.token + queries;
  l.q_sum = l.q_step + queries;
  l.scores = l.q_sum + queries;
  l.keys = l.scores + size_t{kMaxKeyTile} * kMaxQueryTile;
  l.values = l.keys + size_t{kTileUnits} * dim;
  l.k_step = l.values + size_t{kTileUnits} * dim;
  l.k_low = l.k_step + kMaxKeyColumns;
  l.total = l.k_low + kMaxKeyColumns;
  return l;
}

}  // namespace duo
