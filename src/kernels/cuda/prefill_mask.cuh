// The queries of a block of the prefill kernel, and the rows of the cache that they see, tile by tile.
#pragma once

#include "kernels/cuda/attention_launch.h"

namespace duo {

constexpr int kPrefillThreads = 128;
constexpr int kPrefillQueries = 128;  // queries per block
constexpr int kPrefillRows = 64;      // rows per tile

/// Query i belongs to head first_head + i % n_heads of the group and to token first_token + i / n_heads.
struct PrefillQueries {
  int64_t first_token, first_pos, last_pos;
  int n, n_heads, first_head;
  __device__ __forceinline__ int64_t Pos(int i) const { return first_pos + i / n_heads; }
};

__device__ __forceinline__ PrefillQueries QueriesOfBlock(const PrefillArgs& a) {
  PrefillQueries q;
  q.first_head = static_cast<int>(blockIdx.z) * a.group_step;
  q.n_heads = a.group - q.first_head < a.group_step ? a.group - q.first_head : a.group_step;
  // The last tokens have the most work and start first.
  q.first_token = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * a.tokens_step;
  const int64_t left = a.n_tokens - q.first_token;
  const int n_tokens = static_cast<int>(left < a.tokens_step ? left : a.tokens_step);
  q.n = n_tokens * q.n_heads;
  q.first_pos = a.q_pos + q.first_token;
  q.last_pos = q.first_pos + n_tokens - 1;
  return q;
}

/// A set of rows of a head's cache, which are in order of position: [0, min(end, sink_end)) and [window_begin, end). An
/// int suffices, because no device holds 2^31 rows of a head.
struct SeenRows {
  int end, sink_end, window_begin;
};

/// The rows that at least one of the queries at positions first_pos..last_pos sees. With the two positions exchanged,
/// the rows that all of them see. The last query sees furthest ahead, and the first one furthest back (kernels/mask.h).
__device__ __forceinline__ SeenRows RowsSeen(const PrefillHead& head, int64_t first_pos, int64_t last_pos) {
  const auto before = [&](int64_t pos) {  // number of rows with positions below pos
    const int64_t sinks = pos < head.n_sink_rows ? pos : head.n_sink_rows;
    const int64_t n = sinks + (pos > head.body_pos ? pos - head.body_pos : 0);
    return static_cast<int>(n < head.n_rows ? n : head.n_rows);
  };
  const bool all_in_window = first_pos < head.mask.window;
  return {.end = before(last_pos + 1),
          .sink_end = before(head.mask.sink),
          .window_begin = all_in_window ? 0 : before(first_pos - head.mask.window + 1)};
}

/// The begin of the first tile, from the one at `row` on, that has a seen row. If it is not below seen.end, no tile is
/// left.
__device__ __forceinline__ int NextTile(const SeenRows& seen, int row) {
  const bool between = row >= seen.sink_end && row + kPrefillRows <= seen.window_begin;
  return between ? seen.window_begin / kPrefillRows * kPrefillRows : row;
}

/// A set of rows of a tile. Bit r is row r.
using TileBits = uint64_t;
static_assert(kPrefillRows == 64);
constexpr TileBits kWholeTile = ~TileBits{0};

/// The seen rows of the tile that begins at `row`.
__device__ __forceinline__ TileBits SeenOf(const SeenRows& seen, int row) {
  const auto before = [&](int end) {
    const int n = end - row;
    return n <= 0 ? 0 : n >= kPrefillRows ? kWholeTile : (TileBits{1} << (n & 63)) - 1;
  };
  return before(seen.end) & (before(seen.sink_end) | ~before(seen.window_begin));
}

}  // namespace duo
