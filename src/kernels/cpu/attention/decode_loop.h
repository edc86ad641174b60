// Decode attention of one KV head, for a vector type V and a cache policy C (cache_policy.h). It runs the online
// softmax over blocks of rows (arXiv:1805.02867). For each block it computes the scores of all query heads, then the
// weights, then the block's share of the output. So each cache row comes from memory once. Further passes for other
// heads find it in the first-level cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/attention/cache_policy.h"
#include "kernels/cpu/attention/decode_batch.h"
#include "kernels/cpu/vec/exp2.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"

namespace duo {
namespace {

// 32 rows of 128 bf16 keys and values are 16 KiB, so a block and the next one fit a first-level cache of 32 or 48 KiB.
constexpr int kDecodeRows = 32;
// The distance of prefetching: 16 KiB of keys for 128 bf16 dimensions, and as much of values.
constexpr int kAheadRows = 2 * kDecodeRows;

template <Vec V, DecodeCache<V> C>
struct DecodeLoop {
  using F = typename V::F;
  using Elements = typename C::Elements;
  using ValueUnits = typename C::ValueUnits;
  using Unit = typename C::Unit;
  static constexpr int kChunk = 2 * V::kLanes;  // elements per Elements
  static constexpr int kChunkBytes = kChunk * C::kElementBytes;
  static constexpr int kQueryChunkBytes = kChunk * C::kQueryBytes;

  // Everything about one batch of heads. Lives on the stack.
  struct Batch {
    int n_blocks;  // register blocks of heads; each prefetches its share of the next cache lines
    alignas(64) char query[kDecodeHeads * kMaxHeadDim * C::kQueryBytes];  // [head][chunk]
    alignas(64) float scores[kDecodeHeads * kDecodeRows];                 // [head][row], then weights
    alignas(64) float sums[kDecodeHeads * V::kLanes];                     // [head]: sum of weights, spread over lanes
    float max[kDecodeHeads];
    float keep[kDecodeHeads];  // exp(old max - new max) of the block
    int query_stride;          // bytes per head
  };

  // Scores of R rows for H heads. Computes the dot products of all pairs, then one transposing reduction.
  template <int H, int R, bool kWhole>
  DUO_ALWAYS_INLINE void ScoreRows(const char* k, int n_rows, const char* query, int query_stride, int head_dim,
                                   F scale, float* scores) {
    constexpr int kParts = V::kLanes / R;
    const size_t row_bytes = C::RowBytes(head_dim);
    const char* row[R];
    DUO_UNROLL for (int r = 0; r < R; ++r) { row[r] = k + (kWhole || r < n_rows ? r : n_rows - 1) * row_bytes; }
    F acc[V::kLanes];
    DUO_UNROLL for (int i = 0; i < V::kLanes; ++i) acc[i] = V::Zero();
    int d = 0;
    for (; d + kChunk <= head_dim; d += kChunk, query += kQueryChunkBytes) {
      Elements keys[R];
      DUO_UNROLL for (int r = 0; r < R; ++r) keys[r] = C::LoadElements(row[r] + d * C::kElementBytes);
      DUO_UNROLL for (int h = 0; h < H; ++h) {
        const Elements q = C::LoadQuery(query + h * query_stride);
        DUO_UNROLL for (int r = 0; r < R; ++r) acc[h * R + r] = C::Dot(keys[r], q, acc[h * R + r]);
      }
    }
    if (d < head_dim) {
      DUO_UNROLL for (int r = 0; r < R; ++r) {
        const Elements key = C::LoadElementsPartial(row[r] + d * C::kElementBytes, head_dim - d);
        DUO_UNROLL for (int h = 0; h < H; ++h) {
          acc[h * R + r] = C::Dot(key, C::LoadQuery(query + h * query_stride), acc[h * R + r]);
        }
      }
    }
    V::template StoreParts<kParts, H>(scores, kDecodeRows, V::Mul(V::TransposedSum(acc), scale));
  }

  template <int H>
  static void ScoreBlock(const char* k, int n_rows, const Batch& b, int head, int head_dim, float scale, float* scores,
                         Prefetcher* prefetch) {
    constexpr int kPaddedHeads = H == 3 ? 4 : H;
    constexpr int R = V::kLanes / kPaddedHeads;
    const F scales = V::Set(scale);
    const char* query = b.query + head * b.query_stride;
    const size_t row_bytes = C::RowBytes(head_dim);
    const int lines = static_cast<int>(R * row_bytes / 64) / b.n_blocks + 1;
    int r = 0;
    for (; r + R <= n_rows; r += R) {
      Prefetcher::Lines<V>(prefetch, lines);
      if (head_dim == 128) {
        ScoreRows<H, R, true>(k + r * row_bytes, R, query, b.query_stride, 128, scales, scores + r);
      } else if (head_dim == 64) {
        ScoreRows<H, R, true>(k + r * row_bytes, R, query, b.query_stride, 64, scales, scores + r);
      } else {
        ScoreRows<H, R, true>(k + r * row_bytes, R, query, b.query_stride, head_dim, scales, scores + r);
      }
    }
    if (r < n_rows) {
      ScoreRows<H, R, false>(k + r * row_bytes, n_rows - r, query, b.query_stride, head_dim, scales, scores + r);
    }
  }

  // Turns scores into exp(score - max) in place. Updates max and the spread sum, and sets keep = exp(old max - new
  // max).
  DUO_ALWAYS_INLINE void Weigh(float* scores, int n_rows, float* max, float* sums, float* keep) {
    constexpr int kStep = 2 * V::kLanes;
    const int padded = (n_rows + kStep - 1) / kStep * kStep;
    for (int r = n_rows; r < padded; ++r) scores[r] = -__builtin_inff();
    const F shift = ShiftOf<V>(scores, padded, max, keep), log2e = V::Set(kLog2E);
    F sum0 = V::Mul(V::Load(sums), V::Set(*keep)), sum1 = V::Zero();
    for (int r = 0; r < padded; r += kStep) {
      const F p0 = C::Exp2(V::Mul(V::Sub(V::Load(scores + r), shift), log2e));
      const F p1 = C::Exp2(V::Mul(V::Sub(V::Load(scores + r + V::kLanes), shift), log2e));
      sum0 = V::Add(sum0, p0);
      sum1 = V::Add(sum1, p1);
      C::StoreWeights(scores, r, p0, p1);
    }
    V::Store(sums, V::Add(sum0, sum1));
  }

  // acc = acc * keep + sum over rows of weight * v, for H heads. v and acc begin at the first dimension. Covers U whole
  // chunks of dimensions, or one partial chunk of n.
  template <int H, int U, bool kWhole>
  DUO_ALWAYS_INLINE void AccumulateChunks(const char* v, int n_rows, const float* weights, const float* keep,
                                          int head_dim, int n, float* acc, Prefetcher* prefetch, int lines) {
    const size_t row_bytes = C::RowBytes(head_dim);
    F sums[H][2 * U];
    DUO_UNROLL for (int h = 0; h < H; ++h) { DUO_UNROLL for (int u = 0; u < 2 * U; ++u) sums[h][u] = V::Zero(); }
    for (int r = 0; r < n_rows; r += C::kPerUnit, weights += 1) {
      Prefetcher::Lines<V>(prefetch, lines);
      const char* row = v + r * row_bytes;
      const char* next =
          C::kPerUnit == 2 && r + 1 < n_rows ? row + row_bytes : row;  // without a next row its weight is 0
      DUO_UNROLL for (int u = 0; u < U; ++u) {
        const ValueUnits x =
            kWhole ? C::LoadValues(row + u * kChunkBytes, next + u * kChunkBytes) : C::LoadValuesPartial(row, next, n);
        DUO_UNROLL for (int h = 0; h < H; ++h) {
          const Unit w = C::BroadcastUnit(weights + h * kDecodeRows);
          sums[h][2 * u] = C::MulAdd(w, x.a, sums[h][2 * u]);
          sums[h][2 * u + 1] = C::MulAdd(w, x.b, sums[h][2 * u + 1]);
        }
      }
    }
    DUO_UNROLL for (int h = 0; h < H; ++h) {
      const F factor = V::Set(keep[h]);
      DUO_UNROLL for (int u = 0; u < U; ++u) {
        C::RestoreDims(&sums[h][2 * u], &sums[h][2 * u + 1]);
        DUO_UNROLL for (int i = 0; i < 2; ++i) {
          const int d = (2 * u + i) * V::kLanes;
          float* out = acc + int64_t{h} * head_dim + d;
          if (kWhole || n - d >= V::kLanes) {
            V::Store(out, V::Fma(V::Load(out), factor, sums[h][2 * u + i]));
          } else if (n - d > 0) {
            V::StorePartial(out, V::Fma(V::LoadPartial(out, n - d), factor, sums[h][2 * u + i]), n - d);
          }
        }
      }
    }
  }

  template <int H>
  static void AccumulateBlock(const char* v, int n_rows, const Batch& b, int head, int head_dim, float* acc,
                              Prefetcher* prefetch) {
    constexpr int kMany = H <= 2 ? V::kDecodeVectors : V::kDecodeVectors / 2;  // chunks per pass
    const float* weights = b.scores + head * kDecodeRows;
    const float* keep = b.keep + head;
    const int wanted = kMany * C::kPerUnit * kChunkBytes / 64;
    const int lines = wanted > b.n_blocks ? (wanted + b.n_blocks - 1) / b.n_blocks : 1;
    int d = 0;
    for (; d + kMany * kChunk <= head_dim; d += kMany * kChunk) {
      AccumulateChunks<H, kMany, true>(v + d * C::kElementBytes, n_rows, weights, keep, head_dim, 0, acc + d, prefetch,
                                       lines);
    }
    for (; d + kChunk <= head_dim; d += kChunk) {
      AccumulateChunks<H, 1, true>(v + d * C::kElementBytes, n_rows, weights, keep, head_dim, 0, acc + d, prefetch, 1);
    }
    if (d < head_dim) {
      AccumulateChunks<H, 1, false>(v + d * C::kElementBytes, n_rows, weights, keep, head_dim, head_dim - d, acc + d,
                                    prefetch, 1);
    }
  }

  /// Lays out the batch for these query heads, and fetches their queries and states.
  static void Begin(const DecodeAttention& a, int first, int n_heads, Batch* b) {
    const int head_dim = a.shape.head_dim;
    const int chunks = (head_dim + kChunk - 1) / kChunk;
    for (int h = 0; h < n_heads; ++h) {
      b->max[h] = a.states.max[first + h];
      for (int i = 0; i < V::kLanes; ++i) b->sums[h * V::kLanes + i] = i == 0 ? a.states.sum[first + h] : 0.0f;
    }
    b->n_blocks = 0;
    for (int h = 0; h < n_heads; h += BlockHeads(n_heads - h)) ++b->n_blocks;
    b->query_stride = chunks * kQueryChunkBytes;
    for (int h = 0; h < n_heads; ++h) {
      for (int c = 0; c < chunks; ++c) {
        C::PrepareQuery(a.head.q + int64_t{first + h} * head_dim + c * kChunk, head_dim - c * kChunk,
                        b->query + h * b->query_stride + c * kQueryChunkBytes);
      }
    }
  }

  static void RunBatch(const DecodeAttention& a, int first, int n_heads, Batch* b) {
    Begin(a, first, n_heads, b);
    const int head_dim = a.shape.head_dim;
    const size_t row_bytes = C::RowBytes(head_dim);
    const int64_t end = a.rows.end;
    for (int64_t row = a.rows.begin; row < end; row += kDecodeRows) {
      const int n = end - row < kDecodeRows ? static_cast<int>(end - row) : kDecodeRows;
      const char* k = reinterpret_cast<const char*>(a.head.k) + row * row_bytes;
      const char* v = reinterpret_cast<const char*>(a.head.v) + row * row_bytes;
      // Reading a block's keys prefetches the keys of a later block. The same holds for values.
      const int64_t left = end - row, from = left < kAheadRows ? left : kAheadRows;
      const int64_t to = left < kAheadRows + kDecodeRows ? left : kAheadRows + kDecodeRows;
      Prefetcher keys = {k + from * row_bytes, k + to * row_bytes};
      Prefetcher values = {v + from * row_bytes, v + to * row_bytes};
      for (int h = 0, m; h < n_heads; h += m) {
        float* scores = b->scores + h * kDecodeRows;
        switch (m = BlockHeads(n_heads - h)) {
          case 1: ScoreBlock<1>(k, n, *b, h, head_dim, a.shape.scale, scores, &keys); break;
          case 2: ScoreBlock<2>(k, n, *b, h, head_dim, a.shape.scale, scores, &keys); break;
          case 3: ScoreBlock<3>(k, n, *b, h, head_dim, a.shape.scale, scores, &keys); break;
          default: ScoreBlock<4>(k, n, *b, h, head_dim, a.shape.scale, scores, &keys); break;
        }
      }
      for (int h = 0; h < n_heads; ++h) {
        Weigh(b->scores + h * kDecodeRows, n, b->max + h, b->sums + h * V::kLanes, b->keep + h);
      }
      for (int h = 0, m; h < n_heads; h += m) {
        float* acc = a.states.acc + int64_t{first + h} * head_dim;
        switch (m = BlockHeads(n_heads - h)) {
          case 1: AccumulateBlock<1>(v, n, *b, h, head_dim, acc, &values); break;
          case 2: AccumulateBlock<2>(v, n, *b, h, head_dim, acc, &values); break;
          case 3: AccumulateBlock<3>(v, n, *b, h, head_dim, acc, &values); break;
          default: AccumulateBlock<4>(v, n, *b, h, head_dim, acc, &values); break;
        }
      }
    }
    for (int h = 0; h < n_heads; ++h) {
      a.states.max[first + h] = b->max[h];
      a.states.sum[first + h] = V::HorizontalSum(V::Load(b->sums + h * V::kLanes));
    }
  }

  static void Run(const DecodeAttention& a) {
    Batch batch;
    for (int first = 0; first < a.shape.group; first += kDecodeHeads) {
      RunBatch(a, first, a.shape.group - first < kDecodeHeads ? a.shape.group - first : kDecodeHeads, &batch);
    }
  }
};

}  // namespace
}  // namespace duo
