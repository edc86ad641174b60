// The policies that read rows of a cache for decode_loop.h and prefill_loop.h. A policy C belongs to one type of cache
// and one vector type V (vec_concept.h). All functions are static.
//
// A "unit" is the operand of one 32-bit lane of a multiply-add: one float, a pair of bf16, or four bytes.
//
// Rows of plain elements have their policies in kv_rows.h (floats) and kv_rows_avx512_bf16.h (bf16 pairs). Tiles made
// from rows of codes, for prefill, have theirs in code_tiles.h and code_tiles_avx512_bf16.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vec/vec_concept.h"

namespace duo {

// Rows of a tile. Row r begins `stride` * r bytes after p.
struct TileRows {
  const char* p;
  size_t stride;
};

// Step and low of the keys of a tile made from codes, stored separately from the tile.
struct TileParams {
  float* step;
  float* low;
};

/// Decode and prefill share how units are multiplied.
template <class C, class V>
concept CacheProducts = Vec<V> &&
    requires(typename V::F f, typename C::Unit unit, const void* p, int head_dim, size_t bytes, int n) {
  bytes = C::RowBytes(head_dim);  // of a row in the cache, with its share of what its block holds besides codes
  n = C::kPerUnit;                // rows of values whose weights are in one unit: 1 or 2
  unit = C::BroadcastUnit(p);     // one unit in every lane
  f = C::MulAdd(unit, unit, f);   // f + the products of every lane's units
  f = C::Exp2(f);                 // as Vec's, as accurate as the weights are stored
};

/// A row is read in chunks of 2 kLanes elements. The last chunk of a row has n < 2 kLanes.
template <class C, class V>
concept DecodeCache = CacheProducts<C, V> &&
    requires(typename V::F f, typename V::F p0, typename V::F p1, typename C::Elements k, typename C::Elements q,
             typename C::ValueUnits v, typename C::Unit unit, const char* p, const char* row, const char* next,
             const float* query, float* weights, char* out, int n) {
  n = C::kElementBytes;  // bytes per element of a row
  n = C::kQueryBytes;    // bytes per element of a prepared query

  // Scores. Elements: a chunk of a row.
  C::PrepareQuery(query, n, out);  // the next min(n, 2 kLanes) elements, then zeros -> a chunk of kQueryBytes
  q = C::LoadQuery(p);             // such a chunk
  k = C::LoadElements(p);
  k = C::LoadElementsPartial(p, n);
  f = C::Dot(k, q, f);  // f + the products of the chunks; the lanes' sum is the dot product

  // Outputs. ValueUnits: units a and b of a chunk of kPerUnit rows. `next` is the second row, or `row` again where the
  // second weight is zero or unused.
  C::StoreWeights(weights, n, p0, p1);  // weights of rows [n, n + 2 kLanes) over their scores
  v = C::LoadValues(row, next);
  v = C::LoadValuesPartial(row, next, n);
  unit = v.a;
  unit = v.b;
  C::RestoreDims(&p0, &p1);  // puts sums for a and b into the order of a row's dimensions
};

/// Scores that are sums of units, where queries are floats or rounded to bf16.
template <class C, class V>
concept PlainScores = requires(typename V::F f, const float* query, int n) {
  f = C::LoadQueryUnits(query, n);  // the bits of kLanes units; the query has n >= 1 elements left, then zeros
  f = C::ZeroScore();               // a sum is the unscaled score
};

/// Scores that are made from sums of integers, where queries are rounded to bytes.
template <class C, class V>
concept RoundedScores = requires(typename V::F f, typename V::F q_sums, typename C::ScoreAcc acc, const float* query,
                                 float* q_step, float* q_sum, float step, float low, int head_dim, int d) {
  // The bits of kLanes units from dimension d on. Writes the query's step and the sum of its bytes.
  f = C::RoundQueryUnits(query, head_dim, d, q_step, q_sum);
  // The unscaled score in steps of the query, for a key with this step and low. q_sums: the queries' sums of bytes.
  f = C::ToScore(acc, step, low, q_sums);
};

template <class C, class V>
concept PrefillScores = (C::kRoundsQueries && RoundedScores<C, V>) || (!C::kRoundsQueries && PlainScores<C, V>);

/// Keys and values are used in tiles of up to kKeyTile rows. A lane belongs to one query.
template <class C, class V>
concept PrefillCache = CacheProducts<C, V> && PrefillScores<C, V> &&
    requires(typename V::F p0, typename V::F p1, typename C::Unit unit, typename C::ScoreAcc acc, TileRows rows,
             TileParams params, const char* base, const void* p, float* tile, int64_t row, int64_t n_rows, int head_dim,
             int padded_dim, int key, int pitch, int lane, int n) {
  n = C::kKeyTile;      // a multiple of 16
  n = C::kKeyStep;      // bytes between the units of a key in a tile
  n = C::kDimsPerStep;  // dimensions per unit of a key

  // Rows [row, row + n_rows) of the cache that begins at `base`, where they are or converted into `tile`. Keys: rows of
  // units, kKeyStep apart; `params` gets the keys' steps and lows if kRoundsQueries. Values: a row of padded_dim units
  // for every kPerUnit rows; a missing last row is zero.
  rows = C::PrepareKeys(base, row, n_rows, head_dim, padded_dim, tile, params);
  rows = C::PrepareValues(base, row, n_rows, head_dim, padded_dim, tile);

  // Scores are summed in ScoreAcc.
  unit = C::LoadUnits(p);  // a unit of each of kLanes queries, or their weights
  acc = C::ZeroScore();
  acc = C::ScoreMulAdd(unit, unit, acc);
  // Writes the weights of keys `key` and `key` + 1 for the queries [lane, lane + kLanes) over scores [key][pitch] that
  // were already read.
  C::StoreWeightRows(tile, key, pitch, lane, p0, p1);
};

/// Rows of plain elements, which FloatProducts (kv_rows.h) multiplies as floats. Chunks are as in DecodeCache.
template <class R, class V>
concept FloatRows = Vec<V> && requires(typename V::F a, typename V::F b, const char* p, float* tile, TileRows rows,
                                       int64_t n_rows, int head_dim, int padded_dim, int n) {
  n = R::kElementBytes;
  // A chunk as two vectors, with its elements in any order. TwiceIndex(n): the place of element n. Restore: puts sums
  // into the order of the row.
  R::LoadTwice(p, &a, &b);
  R::LoadTwicePartial(p, n, &a, &b);
  n = R::TwiceIndex(n);
  R::Restore(&a, &b);
  rows = R::Floats(p, n_rows, head_dim, padded_dim, tile);  // n_rows rows, where they are or converted into `tile`
};

}  // namespace duo
