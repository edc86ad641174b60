// Prefill attention of one KV head for a vector type V and a cache policy C (cache_policy.h). It is FlashAttention's
// tiling (arXiv:2205.14135) on one thread, transposed: one lane is one query. Scores are S^T = K Q^T and outputs O^T =
// V^T P^T. Both products have a vector of queries as one operand, and a broadcast element of K or V as the other. So
// plain keys are used as they lie in the cache, and maxima and sums need no reduction across lanes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/attention/cache_policy.h"
#include "kernels/cpu/attention/prefill_plan.h"
#include "kernels/cpu/vec/exp2.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"
#include "kernels/kv_codes.h"

namespace duo {
namespace {

template <Vec V, PrefillCache<V> C>
struct PrefillLoop {
  using F = typename V::F;
  using Unit = typename C::Unit;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kRows = V::kTileRows;
  static constexpr int kQueryTile = 3 * kLanes;
  static constexpr int kKeyTile = C::kKeyTile;
  static_assert(kQueryTile <= kMaxQueryTile && kMaxQueryTile % kQueryTile == 0 && kKeyTile <= kMaxKeyTile &&
                kKeyTile <= kTileUnits * C::kPerUnit && kKeyTile % kRows == 0);

  const AttentionShape& shape;
  const PrefillHead& head;
  PrefillLayout layout;
  float* scratch;

  // A tile of consecutive keys at consecutive positions.
  struct KeyTile {
    TileRows keys;      // rows of units, C::kKeyStep bytes apart
    TileParams params;  // of the keys; used only where C multiplies codes
    TileRows values;    // rows of units, one per key or one per pair of keys
    int64_t pos;
    int n;
    const char* prefetch[2];  // keys and values of the next tile
    const char* prefetch_end[2];
  };

  struct QueryTile {
    const char* queries;  // [step][kVecs * kLanes]
    float* out;           // [dim][kVecs * kLanes]
    float* max;
    float* sum;
    const float* q_step;
    const float* q_sum;
    const int32_t* token;
    int64_t first_pos, last_pos;
  };

  // Units of a key.
  int Steps() const { return (shape.head_dim + C::kDimsPerStep - 1) / C::kDimsPerStep; }

  // Unscaled scores of kRows keys for kVecs vectors of queries. Updates the running maximum.
  template <int kVecs, bool kMasked>
  DUO_ALWAYS_INLINE void ScoreKeys(const char* const* row, const QueryTile& queries, TileParams params, int steps,
                                   const int32_t* lo, const int32_t* hi, float* scores, F* max) {
    const char* q = queries.queries;
    typename C::ScoreAcc acc[kRows][kVecs];
    DUO_UNROLL for (int r = 0; r < kRows; ++r) {
      DUO_UNROLL for (int v = 0; v < kVecs; ++v) acc[r][v] = C::ZeroScore();
    }
    const char* k[kRows];
    DUO_UNROLL for (int r = 0; r < kRows; ++r) k[r] = row[r];
    for (int s = 0; s < steps; ++s) {
      Unit x[kVecs];
      DUO_UNROLL for (int v = 0; v < kVecs; ++v) {
        x[v] = C::LoadUnits(q + (static_cast<size_t>(s) * kVecs + v) * kLanes * 4);
      }
      DUO_UNROLL for (int r = 0; r < kRows; ++r) {
        const Unit key = C::BroadcastUnit(k[r] + static_cast<size_t>(s) * C::kKeyStep);
        DUO_UNROLL for (int v = 0; v < kVecs; ++v) acc[r][v] = C::ScoreMulAdd(key, x[v], acc[r][v]);
      }
    }
    DUO_UNROLL for (int r = 0; r < kRows; ++r) {
      DUO_UNROLL for (int v = 0; v < kVecs; ++v) {
        F score;
        if constexpr (C::kRoundsQueries) {
          score = C::ToScore(acc[r][v], params.step[r], params.low[r], V::Load(queries.q_sum + v * kLanes));
        } else {
          score = acc[r][v];
        }
        if (kMasked) score = V::KeepTokens(score, queries.token + v * kLanes, lo[r], hi[r]);
        V::Store(scores + (r * kVecs + v) * kLanes, score);
        max[v] = V::Max(max[v], score);
      }
    }
  }

  // Tokens [lo, hi) of the block see the key at `pos`.
  DUO_ALWAYS_INLINE void SeenBy(int64_t q_pos, const LambdaMask& mask, int64_t pos, int32_t* lo, int32_t* hi) {
    const int64_t first = pos - q_pos;
    const bool always = pos < mask.sink || mask.window > INT32_MAX;
    const int64_t last = always ? INT32_MAX : first + mask.window;
    *lo = static_cast<int32_t>(first < 0 ? 0 : first);
    *hi = static_cast<int32_t>(last < 0 ? 0 : last > INT32_MAX ? INT32_MAX : last);
  }

  static void PrefetchSome(KeyTile* tile, int lines) {
    for (int i = 0; i < 2; ++i) {
      for (int l = 0; l < lines && tile->prefetch[i] < tile->prefetch_end[i]; ++l, tile->prefetch[i] += 64) {
        __builtin_prefetch(tile->prefetch[i], 0, 2);
      }
    }
  }

  // Scores of the tile's keys [begin, end), rounded up to whole groups of kRows. `begin` is a multiple of kRows.
  template <int kVecs>
  void ScoreTile(KeyTile* tile, const QueryTile& queries, int begin, int end, F* max) const {
    const int steps = Steps();
    float* scores = scratch + layout.scores;
    for (int n = begin; n < end; n += kRows) {
      const char* row[kRows];
      const int64_t pos = tile->pos + n, last = pos + kRows - 1;
      const bool seen = n + kRows <= tile->n && last <= queries.first_pos &&
                        (last < head.mask.sink || head.mask.window > queries.last_pos - pos);
      PrefetchSome(tile, kRows);
      float* out = scores + n * kVecs * kLanes;
      const TileParams params = {tile->params.step + n, tile->params.low + n};
      if (seen) {
        for (int r = 0; r < kRows; ++r) row[r] = tile->keys.p + (n + r) * tile->keys.stride;
        ScoreKeys<kVecs, false>(row, queries, params, steps, nullptr, nullptr, out, max);
      } else {
        int32_t lo[kRows], hi[kRows];
        for (int r = 0; r < kRows; ++r) {
          const bool real = n + r < tile->n;
          row[r] = tile->keys.p + (real ? n + r : tile->n - 1) * tile->keys.stride;
          SeenBy(shape.q_pos, head.mask, pos + r, &lo[r], &hi[r]);
          if (!real) hi[r] = lo[r];
        }
        ScoreKeys<kVecs, true>(row, queries, params, steps, lo, hi, out, max);
      }
    }
  }

  // Turns scores into weights exp(scale * (score - max)) in place. Updates max and sum, and sets
  // keep = exp(scale * (old max - max)).
  template <int kVecs>
  void WeighTile(const QueryTile& queries, int begin, int end, const F* tile_max, F* keep) const {
    constexpr int kPitch = kVecs * kLanes;
    float* scores = scratch + layout.scores;
    for (int v = 0; v < kVecs; ++v) {
      F factor = V::Set(shape.scale * kLog2E);
      if constexpr (C::kRoundsQueries) factor = V::Mul(factor, V::Load(queries.q_step + v * kLanes));
      const F old_max = V::Load(queries.max + v * kLanes);
      const F max = V::Max(old_max, tile_max[v]);
      // In a lane that has seen no key yet, -inf - -inf would be NaN. Any finite shift gives weights of 0.
      const F shift = V::Max(max, V::Set(-__FLT_MAX__));
      keep[v] = V::Exp2(V::Mul(V::Sub(old_max, shift), factor));
      F sum0 = V::Zero(), sum1 = V::Zero();
      for (int n = begin; n < end; n += 2) {
        const float* s = scores + n * kPitch + v * kLanes;
        const F p0 = C::Exp2(V::Mul(V::Sub(V::Load(s), shift), factor));
        const F p1 = C::Exp2(V::Mul(V::Sub(V::Load(s + kPitch), shift), factor));
        sum0 = V::Add(sum0, p0);
        sum1 = V::Add(sum1, p1);
        C::StoreWeightRows(scores, n, kPitch, v * kLanes, p0, p1);
      }
      V::Store(queries.max + v * kLanes, max);
      V::Store(queries.sum + v * kLanes, V::Fma(V::Load(queries.sum + v * kLanes), keep[v], V::Add(sum0, sum1)));
    }
  }

  // out = out * keep + sum over keys of value * weight, for D dimensions of O^T.
  template <int kVecs, int D>
  DUO_ALWAYS_INLINE void AccumulateDims(const char* values, size_t stride, int n_units, const float* weights,
                                        const F* keep, float* out) {
    F acc[D][kVecs];
    DUO_UNROLL for (int d = 0; d < D; ++d) {
      DUO_UNROLL for (int v = 0; v < kVecs; ++v) {
        acc[d][v] = V::Mul(V::Load(out + (d * kVecs + v) * kLanes), keep[v]);
      }
    }
    for (int n = 0; n < n_units; ++n) {
      Unit p[kVecs];
      DUO_UNROLL for (int v = 0; v < kVecs; ++v) p[v] = C::LoadUnits(weights + (n * kVecs + v) * kLanes);
      DUO_UNROLL for (int d = 0; d < D; ++d) {
        const Unit x = C::BroadcastUnit(values + d * 4);
        DUO_UNROLL for (int v = 0; v < kVecs; ++v) acc[d][v] = C::MulAdd(x, p[v], acc[d][v]);
      }
      values += stride;
    }
    DUO_UNROLL for (int d = 0; d < D; ++d) {
      DUO_UNROLL for (int v = 0; v < kVecs; ++v) V::Store(out + (d * kVecs + v) * kLanes, acc[d][v]);
    }
  }

  template <int kVecs>
  void AccumulateTile(const KeyTile& tile, const QueryTile& queries, int begin, int end, const F* keep) const {
    const int first = begin / C::kPerUnit, last = (end + C::kPerUnit - 1) / C::kPerUnit;
    const char* values = tile.values.p + first * tile.values.stride;
    const float* weights = scratch + layout.scores + static_cast<size_t>(first) * kVecs * kLanes;
    int d = 0;
    for (; d + kRows <= shape.head_dim; d += kRows) {
      AccumulateDims<kVecs, kRows>(values + d * 4, tile.values.stride, last - first, weights, keep,
                                   queries.out + static_cast<size_t>(d) * kVecs * kLanes);
    }
    for (; d < shape.head_dim; d += 2) {  // head_dim is even
      AccumulateDims<kVecs, 2>(values + d * 4, tile.values.stride, last - first, weights, keep,
                               queries.out + static_cast<size_t>(d) * kVecs * kLanes);
    }
  }

  template <int kVecs>
  void ProcessTile(KeyTile* tile, const QueryTile& queries) const {
    // Restrict the tile to keys that some query of this query tile sees.
    int64_t end = queries.last_pos - tile->pos + 1;
    if (end > tile->n) end = tile->n;
    int64_t begin = 0;
    if (tile->pos >= head.mask.sink && head.mask.window <= queries.first_pos) {
      begin = queries.first_pos - head.mask.window + 1 - tile->pos;
      begin = begin < 0 ? 0 : begin / kRows * kRows;
    }
    if (begin >= end) return;
    const int first = static_cast<int>(begin), last = static_cast<int>(end);
    const int padded = first + (last - first + kRows - 1) / kRows * kRows;
    F max[kVecs], keep[kVecs];
    for (int v = 0; v < kVecs; ++v) max[v] = V::Set(-__builtin_inff());
    ScoreTile<kVecs>(tile, queries, first, last, max);
    WeighTile<kVecs>(queries, first, padded, max, keep);
    AccumulateTile<kVecs>(*tile, queries, first, last, keep);
  }

  QueryTile QueriesFrom(int64_t query) const {
    const size_t q = query, dim = layout.padded_dim;
    QueryTile t;
    t.queries = reinterpret_cast<const char*>(scratch + layout.queries + q * dim);
    t.out = scratch + layout.out + q * dim;
    t.max = scratch + layout.max + q;
    t.sum = scratch + layout.sum + q;
    t.q_step = scratch + layout.q_step + q;
    t.q_sum = scratch + layout.q_sum + q;
    t.token = reinterpret_cast<const int32_t*>(scratch + layout.token) + query;
    t.first_pos = t.last_pos = 0;
    const int64_t last = query + kQueryTile < layout.n_queries ? query + kQueryTile : layout.n_queries;
    t.first_pos = shape.q_pos + query / shape.group;
    t.last_pos = shape.q_pos + (last - 1) / shape.group;
    return t;
  }

  int VectorsFrom(int64_t query) const {
    const int64_t left = (layout.n_queries - query + kLanes - 1) / kLanes;
    return left < 3 ? static_cast<int>(left) : 3;
  }

  // Transposes the queries, kLanes at a time, to [step][kLanes] with `pitch` lanes between steps. Resets max, sum and
  // out.
  void PackQueries() {
    int32_t* token = reinterpret_cast<int32_t*>(scratch + layout.token);
    for (int64_t q = 0; q < layout.padded_queries; ++q) {
      const int64_t real = q < layout.n_queries ? q : layout.n_queries - 1;
      token[q] = static_cast<int32_t>(real / shape.group);
      scratch[layout.max + q] = -__builtin_inff();
      scratch[layout.sum + q] = 0.0f;
    }
    for (int64_t q = 0; q < layout.n_queries; q += kLanes) {
      const int64_t tile = q / kQueryTile * kQueryTile;
      const int pitch = VectorsFrom(tile) * kLanes;
      float* out = scratch + layout.queries + static_cast<size_t>(tile) * layout.padded_dim + (q - tile);
      float* sums = scratch + layout.out + static_cast<size_t>(tile) * layout.padded_dim + (q - tile);
      for (int s = 0; s < Steps(); s += kLanes) {
        F block[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          const int64_t m = q + i < layout.n_queries ? q + i : layout.n_queries - 1;
          const float* from = head.q + m / shape.group * shape.q_stride + m % shape.group * shape.head_dim;
          const int d = s * C::kDimsPerStep;
          if constexpr (C::kRoundsQueries) {
            // Rounds the whole query again for every 64 dimensions, which is twice at most for the usual head_dim.
            block[i] = C::RoundQueryUnits(from, shape.head_dim, d, scratch + layout.q_step + q + i,
                                          scratch + layout.q_sum + q + i);
          } else {
            block[i] = C::LoadQueryUnits(from + d, shape.head_dim - d);
          }
        }
        V::Transpose(block);
        const int n = Steps() - s < kLanes ? Steps() - s : kLanes;
        for (int i = 0; i < n; ++i) V::Store(out + (s + i) * pitch, block[i]);
      }
      for (int d = 0; d < layout.padded_dim; ++d) V::Store(sums + d * pitch, V::Zero());
    }
  }

  // Writes lse of the vector of queries that begins at q.
  void WriteLogSums(int64_t q) const {
    for (int64_t i = q; i < q + kLanes && i < layout.n_queries; ++i) {
      head.lse[i / shape.group * shape.lse_stride + i % shape.group] =
          shape.scale * (C::kRoundsQueries ? scratch[layout.q_step + i] : 1.0f) * scratch[layout.max + i] +
          __builtin_logf(scratch[layout.sum + i]);
    }
  }

  void WriteOutput() const {
    for (int64_t q = 0; q < layout.n_queries; q += kLanes) {
      const int64_t tile = q / kQueryTile * kQueryTile;
      const int pitch = VectorsFrom(tile) * kLanes;
      const float* sums = scratch + layout.out + static_cast<size_t>(tile) * layout.padded_dim + (q - tile);
      alignas(64) float inverse[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const float sum = scratch[layout.sum + q + i];
        inverse[i] = sum == 0.0f ? 0.0f : 1.0f / sum;  // a NaN stays NaN
      }
      if (head.lse != nullptr) WriteLogSums(q);
      const F factor = V::Load(inverse);
      for (int d = 0; d < shape.head_dim; d += kLanes) {
        F block[kLanes];
        for (int i = 0; i < kLanes; ++i) block[i] = V::Mul(V::Load(sums + (d + i) * pitch), factor);
        V::Transpose(block);
        const int n = shape.head_dim - d < kLanes ? shape.head_dim - d : kLanes;
        for (int i = 0; i < kLanes && q + i < layout.n_queries; ++i) {
          float* out = head.out + (q + i) / shape.group * shape.q_stride + (q + i) % shape.group * shape.head_dim + d;
          if (n == kLanes) {
            V::Store(out, block[i]);
          } else {
            V::StorePartial(out, block[i], n);
          }
        }
      }
    }
  }

  KeyTile MakeTile(const KeyRun& run, int64_t first) const {
    const int64_t row = run.row + first;
    const char* k = reinterpret_cast<const char*>(head.k);
    const char* v = reinterpret_cast<const char*>(head.v);
    KeyTile tile;
    tile.n = run.n_rows - first < kKeyTile ? static_cast<int>(run.n_rows - first) : kKeyTile;
    tile.pos = run.pos + first;
    tile.params = {scratch + layout.k_step, scratch + layout.k_low};
    tile.keys = C::PrepareKeys(k, row, tile.n, shape.head_dim, layout.padded_dim, scratch + layout.keys, tile.params);
    tile.values = C::PrepareValues(v, row, tile.n, shape.head_dim, layout.padded_dim, scratch + layout.values);
    if constexpr (C::kRoundsQueries) tile.params.step += row % kCodeRows, tile.params.low += row % kCodeRows;
    const size_t row_bytes = C::RowBytes(shape.head_dim);
    const int64_t left = run.n_rows - first - tile.n;
    const size_t at = (row + tile.n) * row_bytes;
    const size_t next = static_cast<size_t>(left < kKeyTile ? left : kKeyTile) * row_bytes;
    tile.prefetch[0] = k + at;
    tile.prefetch[1] = v + at;
    tile.prefetch_end[0] = tile.prefetch[0] + next;
    tile.prefetch_end[1] = tile.prefetch[1] + next;
    return tile;
  }

  void RunTiles() {
    PackQueries();
    const VisibleRuns runs = FindVisibleRuns(shape, head);
    for (int i = 0; i < runs.n; ++i) {
      for (int64_t first = 0; first < runs.run[i].n_rows; first += kKeyTile) {
        KeyTile tile = MakeTile(runs.run[i], first);
        for (int64_t q = 0; q < layout.n_queries; q += kQueryTile) {
          const QueryTile queries = QueriesFrom(q);
          switch (VectorsFrom(q)) {
            case 1: ProcessTile<1>(&tile, queries); break;
            case 2: ProcessTile<2>(&tile, queries); break;
            default: ProcessTile<3>(&tile, queries); break;
          }
        }
      }
    }
    WriteOutput();
  }

  static void Run(const PrefillAttention& a) {
    const AttentionShape& shape = a.shape;
    PrefillLoop loop = {shape, a.head, MakePrefillLayout(shape.n_tokens, shape.group, shape.head_dim),
                        static_cast<float*>(a.scratch)};
    loop.RunTiles();
  }
};

}  // namespace
}  // namespace duo
