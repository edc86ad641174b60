// Which queries a block of the prefill kernel has, and which rows of the cache they see, tile by tile.
#pragma once

#include "kernels/cuda/attention_launch.h"

namespace duo {

constexpr int kPrefillThreads = 128;
constexpr int kPrefillQueries = 128;  // of a block
constexpr int kPrefillRows = 64;      // of a tile

/// Query i is that of head first_head + i % n_heads of the group, of token first_token + i / n_heads.
struct PrefillQueries {
  int64_t first_token, first_pos, last_pos;
  int n, n_heads, first_head;
  __device__ __forceinline__ int64_t Pos(int i) const { return first_pos + i / n_heads; }
};

__device__ __forceinline__ PrefillQueries QueriesOfBlock(const PrefillArgs& a) {
  PrefillQueries q;
  q.first_head = static_cast<int>(blockIdx.z) * a.group_step;
  q.n_heads = a.group - q.first_head < a.group_step ? a.group - q.first_head : a.group_step;
  // The last tokens have the most to do and start first.
  q.first_token = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * a.tokens_step;
  const int64_t left = a.n_tokens - q.first_token;
  const int n_tokens = static_cast<int>(left < a.tokens_step ? left : a.tokens_step);
  q.n = n_tokens * q.n_heads;
  q.first_pos = a.q_pos + q.first_token;
  q.last_pos = q.first_pos + n_tokens - 1;
  return q;
}

/// Rows of a head's cache, in order of position: those before `end` that are also before sink_end or not before
/// window_begin. (No device holds 2^31 rows of a head.)
struct SeenRows {
  int end, sink_end, window_begin;
};

/// The rows that one or more of the queries at positions first_pos..last_pos see; with the two exchanged, those that
/// all of them see: the last query sees furthest ahead, the first one furthest back (kernels/mask.h).
__device__ __forceinline__ SeenRows RowsSeen(const CudaPrefillHead& head, int64_t first_pos, int64_t last_pos) {
  const auto before = [&](int64_t pos) {  // rows whose positions are below
    const int64_t sinks = pos < head.n_sink_rows ? pos : head.n_sink_rows;
    const int64_t n = sinks + (pos > head.body_pos ? pos - head.body_pos : 0);
    return static_cast<int>(n < head.n_rows ? n : head.n_rows);
  };
  const bool all_in_window = first_pos < head.mask.window;
  return {.end = before(last_pos + 1),
          .sink_end = before(head.mask.sink),
          .window_begin = all_in_window ? 0 : before(first_pos - head.mask.window + 1)};
}

/// The first tile from that of `row` on with a seen row; none is left if its first row is not below seen.end.
__device__ __forceinline__ int NextTile(const SeenRows& seen, int row) {
  const bool between = row >= seen.sink_end && row + kPrefillRows <= seen.window_begin;
  return between ? seen.window_begin / kPrefillRows * kPrefillRows : row;
}

/// Bit r stands for row r of a tile.
using TileBits = uint64_t;
static_assert(kPrefillRows == 64);
constexpr TileBits kWholeTile = ~TileBits{0};

/// Those of the tile that begins at `row`.
__device__ __forceinline__ TileBits SeenOf(const SeenRows& seen, int row) {
  const auto before = [&](int end) {
    const int n = end - row;
    return n <= 0 ? 0 : n >= kPrefillRows ? kWholeTile : (TileBits{1} << (n & 63)) - 1;
  };
  return before(seen.end) & (before(seen.sink_end) | ~before(seen.window_begin));
}

}  // namespace duo
