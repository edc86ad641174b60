// Decode attention of one KV head over quantised rows (kv_codes.h), for a vector type V and a policy P of products
// (code_policy.h). It runs the online softmax over blocks of rows, as decode_loop.h does. Steps and lows are never
// applied to single codes.
//   Scores: (low + step * code) . q = step * (code . q) + low * sum(q).
//   Outputs: sum_j p_j (low_j + step_j code_j) = sum_j p_j low_j + sum_j (p_j step_j) code_j.
// A lane is a row in scores and a dimension in outputs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/attention/code_policy.h"
#include "kernels/cpu/attention/decode_batch.h"
#include "kernels/cpu/vec/exp2.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"
#include "kernels/kv_codes.h"

namespace duo {
namespace {

template <Vec V, CodeProducts<V> P>
struct DecodeCodesLoop {
  using F = typename V::F;
  static constexpr int kRows = P::kBlockRows;
  static constexpr int kWordBytes = 4 * V::kLanes;        // bytes of a vector of words
  static constexpr int kVectors = kCodeRows / V::kLanes;  // vectors of rows in a block of the cache

  // Everything about one batch of heads. Lives on the stack.
  struct Batch {
    int n_blocks;        // register blocks of heads; each prefetches its share of the next cache lines
    int code_bytes;      // bytes of a row's codes
    size_t block_bytes;  // bytes of kCodeRows rows
    int query_stride;    // bytes per head
    alignas(64) char query[kDecodeHeads * kMaxHeadDim * P::kQueryBytes];  // [head][word][code]
    alignas(64) float scores[kDecodeHeads * kRows];                       // [head][row], then weight * step
    alignas(64) char weights[kDecodeHeads * kRows * P::kWeightBytes];     // [head], as P multiplies them
    alignas(64) float sums[kDecodeHeads * V::kLanes];                     // [head]: sum of weights, spread over lanes
    alignas(64) float lows[kDecodeHeads * V::kLanes];                     // [head]: sum of weight * low
    alignas(64) uint32_t k_params[kRows], v_params[kRows];  // step and low; zeros for rows outside the range
    QueryFacts facts[kDecodeHeads];
    float max[kDecodeHeads];
    float keep[kDecodeHeads];         // exp(old max - new max) of the block
    float weight_step[kDecodeHeads];  // step of the block's weights
  };

  // Loads step and low of the n rows that begin at `blocks`. Rows outside [begin, end) get zeros, so that they add
  // nothing whatever their blocks hold.
  static void LoadParams(const char* blocks, int begin, int end, int n, const Batch& b, uint32_t* params) {
    for (int r = 0; r < n; r += kCodeRows, blocks += b.block_bytes) {
      __builtin_memcpy(params + r, blocks + kCodeRows * b.code_bytes, 4 * kCodeRows);
    }
    for (int r = 0; r < begin; ++r) params[r] = 0;
    for (int r = end; r < n; ++r) params[r] = 0;
  }
  DUO_ALWAYS_INLINE F StepsOf(const uint32_t* params) {
    typename V::Bits bits;
    __builtin_memcpy(&bits, params, sizeof bits);
    return (F)(bits << 16);
  }
  DUO_ALWAYS_INLINE F LowsOf(const uint32_t* params) {
    typename V::Bits bits;
    __builtin_memcpy(&bits, params, sizeof bits);
    return (F)(bits & 0xffff0000u);
  }

  // Products of queries and codes, for R vectors of rows and H heads. Weigh turns them into scores.
  template <int H, int R>
  DUO_ALWAYS_INLINE void ScoreVectors(const char* k, const char* query, const Batch& b, float* scores,
                                      Prefetcher* prefetch) {
    Prefetcher f = *prefetch;     // a local copy stays in registers
    Prefetcher::Lines<V>(&f, 2);  // for steps and lows, which follow every 16 rows
    typename P::Acc acc[H][R];
    DUO_UNROLL for (int h = 0; h < H; ++h) { DUO_UNROLL for (int r = 0; r < R; ++r) acc[h][r] = P::ZeroAcc(); }
    const int n_words = b.code_bytes / 4, wanted = R * kWordBytes / 64;
    const int lines = wanted > b.n_blocks ? wanted / b.n_blocks : 1;
    for (int word = 0; word < n_words; ++word) {
      Prefetcher::Lines<V>(&f, lines);
      DUO_UNROLL for (int r = 0; r < R; ++r) {
        typename P::Code code[P::kKeyCodes];
        P::SplitKeys(k + r / kVectors * b.block_bytes + r % kVectors * kWordBytes, code);
        DUO_UNROLL for (int i = 0; i < P::kKeyCodes; ++i) {
          DUO_UNROLL for (int h = 0; h < H; ++h) {
            acc[h][r] = P::KeyMulAdd(code[i], P::Broadcast(query + h * b.query_stride + 4 * i), acc[h][r]);
          }
        }
      }
      k += 4 * kCodeRows;
      query += 4 * P::kKeyCodes;
    }
    DUO_UNROLL for (int h = 0; h < H; ++h) {
      DUO_UNROLL for (int r = 0; r < R; ++r) V::Store(scores + h * kRows + r * V::kLanes, P::ToFloat(acc[h][r]));
    }
    *prefetch = f;
  }

  // n rows, a multiple of kCodeRows.
  template <int H>
  static void ScoreBlock(const char* k, int n, Batch* b, int head, Prefetcher* prefetch) {
    // Vectors of rows at once. They give enough independent sums that none waits for the one before it.
    constexpr int kMany = V::kLanes == 16 ? (H >= 3 ? 2 : 4) : V::kLanes == 8 ? 2 : 4;
    constexpr int kFew = V::kLanes == 16 ? 1 : kMany;  // at least one block of the cache
    const char* query = b->query + head * b->query_stride;
    float* scores = b->scores + head * kRows;
    const auto at = [&](int r) { return k + r / kCodeRows * b->block_bytes + r % kCodeRows * 4; };
    int r = 0;
    for (; r + kMany * V::kLanes <= n; r += kMany * V::kLanes) {
      ScoreVectors<H, kMany>(at(r), query, *b, scores + r, prefetch);
    }
    for (; r < n; r += kFew * V::kLanes) ScoreVectors<H, kFew>(at(r), query, *b, scores + r, prefetch);
  }

  // Turns products of codes into scores and scores into weights. Updates max, sums and lows.
  static void Weigh(Batch* b, int head, int begin, int end, int n, float scale) {
    float* scores = b->scores + head * kRows;
    const F factor = V::Set(scale * b->facts[head].step), shift_low = V::Set(scale * b->facts[head].sum);
    for (int r = 0; r < n; r += V::kLanes) {
      const F low = V::Mul(LowsOf(b->k_params + r), shift_low);
      V::Store(scores + r, V::Fma(V::Load(scores + r), V::Mul(StepsOf(b->k_params + r), factor), low));
    }
    for (int r = 0; r < begin; ++r) scores[r] = -__builtin_inff();
    for (int r = end; r < n; ++r) scores[r] = -__builtin_inff();
    float* sums = b->sums + head * V::kLanes;
    float* lows = b->lows + head * V::kLanes;
    const F shift = ShiftOf<V>(scores, n, b->max + head, b->keep + head), log2e = V::Set(kLog2E);
    const F keep = V::Set(b->keep[head]);
    F sum = V::Mul(V::Load(sums), keep), low = V::Mul(V::Load(lows), keep), largest = V::Zero();
    for (int r = 0; r < n; r += V::kLanes) {
      const F p = V::Exp2(V::Mul(V::Sub(V::Load(scores + r), shift), log2e));
      const F w = V::Mul(p, StepsOf(b->v_params + r));
      sum = V::Add(sum, p);
      low = V::Fma(p, LowsOf(b->v_params + r), low);
      largest = V::Max(largest, w);
      V::Store(scores + r, w);
    }
    V::Store(sums, sum);
    V::Store(lows, low);
    b->weight_step[head] =
        P::StoreWeights(scores, n, V::HorizontalMax(largest), b->weights + head * kRows * P::kWeightBytes);
  }

  // acc = acc * keep + sum over rows of weight * code, for H heads. Covers W vectors of words of values, which are
  // W * kOutputs vectors of dimensions. Only the first n_dims of these dimensions exist.
  template <int H, int W>
  DUO_ALWAYS_INLINE void AccumulateWords(const char* v, int n, const Batch& b, int head, int n_dims, int head_dim,
                                         float* acc, Prefetcher* prefetch, int lines) {
    constexpr int kOutputs = P::kOutputs, kTerms = P::kTerms, kWidth = kOutputs * V::kLanes;
    const char* weights = b.weights + head * kRows * P::kWeightBytes;
    typename P::Sum sums[H][W][kOutputs];
    DUO_UNROLL for (int h = 0; h < H; ++h) {
      DUO_UNROLL for (int w = 0; w < W; ++w) {
        DUO_UNROLL for (int o = 0; o < kOutputs; ++o) sums[h][w][o] = P::ZeroSum();
      }
    }
    const size_t quad_bytes = size_t{4} * b.code_bytes, params_bytes = 4 * kCodeRows;
    const char* words = v;
    Prefetcher f = *prefetch;
    Prefetcher::Lines<V>(&f, 2);  // for steps and lows
    for (int quad = 0; quad < n / 4; ++quad, words += quad_bytes) {
      Prefetcher::Lines<V>(&f, lines);
      if (quad % 4 == 0 && quad > 0) words += params_bytes;
      DUO_UNROLL for (int w = 0; w < W; ++w) {
        typename P::Code code[kOutputs * kTerms];
        P::SplitValues(words + w * kWordBytes, code);
        DUO_UNROLL for (int t = 0; t < kTerms; ++t) {
          DUO_UNROLL for (int h = 0; h < H; ++h) {
            const typename P::Weight weight = P::LoadWeight(weights + h * kRows * P::kWeightBytes, quad, t);
            DUO_UNROLL for (int o = 0; o < kOutputs; ++o) {
              sums[h][w][o] = P::ValueMulAdd(code[o * kTerms + t], weight, sums[h][w][o]);
            }
          }
        }
      }
    }
    *prefetch = f;
    DUO_UNROLL for (int h = 0; h < H; ++h) {
      const F keep = V::Set(b.keep[head + h]), step = V::Set(b.weight_step[head + h]);
      float* out = acc + int64_t{h} * head_dim;
      DUO_UNROLL for (int w = 0; w < W; ++w) {
        F value[kOutputs];
        DUO_UNROLL for (int o = 0; o < kOutputs; ++o) value[o] = P::Total(sums[h][w][o], step);
        if constexpr (kOutputs == 2) V::Interleave(&value[0], &value[1]);  // even and odd dimensions
        DUO_UNROLL for (int o = 0; o < kOutputs; ++o) {
          const int d = w * kWidth + o * V::kLanes;
          if (n_dims - d >= V::kLanes) {
            V::Store(out + d, V::Fma(V::Load(out + d), keep, value[o]));
          } else if (n_dims - d > 0) {
            V::StorePartial(out + d, V::Fma(V::LoadPartial(out + d, n_dims - d), keep, value[o]), n_dims - d);
          }
        }
      }
    }
  }

  template <int H>
  static void AccumulateBlock(const char* v, int n, const Batch& b, int head, int head_dim, float* acc,
                              Prefetcher* prefetch) {
    constexpr int kWidth = P::kOutputs * V::kLanes;  // dimensions of a vector of words
    // The last load of four rows may reach up to 48 bytes past them: into the next four rows or, at the end of a block,
    // into its 64 bytes of parameters. Those lanes are dropped.
    const int lines = P::kPassWords * kWordBytes / 64 > b.n_blocks ? P::kPassWords * kWordBytes / 64 / b.n_blocks : 1;
    int d = 0;
    for (; d + P::kPassWords * kWidth <= head_dim; d += P::kPassWords * kWidth) {
      AccumulateWords<H, P::kPassWords>(v + d / kWidth * kWordBytes, n, b, head, P::kPassWords * kWidth, head_dim,
                                        acc + d, prefetch, lines);
    }
    for (; d < head_dim; d += kWidth) {
      AccumulateWords<H, 1>(v + d / kWidth * kWordBytes, n, b, head, head_dim - d, head_dim, acc + d, prefetch, lines);
    }
  }

  /// Lays out the batch for these query heads, and fetches their queries and states.
  static void Begin(const DecodeAttention& a, int first, int n_heads, Batch* b) {
    const int head_dim = a.shape.head_dim;
    b->code_bytes = CodeBytes(P::kBits, head_dim);
    b->block_bytes = CodeBlockBytes(b->code_bytes);
    const int padded_dim = b->code_bytes * 8 / P::kBits;
    b->query_stride = padded_dim * P::kQueryBytes;
    b->n_blocks = 0;
    for (int h = 0; h < n_heads; h += BlockHeads(n_heads - h)) ++b->n_blocks;
    for (int h = 0; h < n_heads; ++h) {
      b->facts[h] = P::PrepareQuery(a.head.q + int64_t{first + h} * head_dim, head_dim, padded_dim,
                                    b->query + h * b->query_stride);
      b->max[h] = a.states.max[first + h];
      for (int i = 0; i < V::kLanes; ++i) {
        b->sums[h * V::kLanes + i] = i == 0 ? a.states.sum[first + h] : 0.0f;
        b->lows[h * V::kLanes + i] = 0.0f;
      }
    }
  }

  /// Writes the states back.
  static void End(const DecodeAttention& a, int first, int n_heads, const Batch& b) {
    const int head_dim = a.shape.head_dim;
    for (int h = 0; h < n_heads; ++h) {
      a.states.max[first + h] = b.max[h];
      a.states.sum[first + h] = V::HorizontalSum(V::Load(b.sums + h * V::kLanes));
      const float low = V::HorizontalSum(V::Load(b.lows + h * V::kLanes));
      for (int d = 0; d < head_dim; ++d) a.states.acc[int64_t{first + h} * head_dim + d] += low;
    }
  }

  static void RunBatch(const DecodeAttention& a, int first, int n_heads, Batch* b) {
    Begin(a, first, n_heads, b);
    const int head_dim = a.shape.head_dim;
    const int64_t first_row = a.rows.begin, last = a.rows.end;
    const int64_t blocks_end = (last + kCodeRows - 1) / kCodeRows;
    const auto block = [b](const uint8_t* rows, int64_t i) {
      return reinterpret_cast<const char*>(rows) + i * b->block_bytes;
    };
    for (int64_t i = first_row / kCodeRows; i < blocks_end && first_row < last; i += kRows / kCodeRows) {
      const int64_t row = i * kCodeRows, left = blocks_end - i;
      const int n = (left < kRows / kCodeRows ? static_cast<int>(left) : kRows / kCodeRows) * kCodeRows;
      const int begin = first_row > row ? static_cast<int>(first_row - row) : 0;
      const int end = last - row < n ? static_cast<int>(last - row) : n;
      const char* k = block(a.head.k, i);
      const char* v = block(a.head.v, i);
      // Reading a block's keys prefetches the keys of the next block. The same holds for values.
      const int64_t next = i + n / kCodeRows, left_then = blocks_end - next;
      const int64_t after = next + (left_then < kRows / kCodeRows ? left_then : kRows / kCodeRows);
      Prefetcher keys = {block(a.head.k, next), block(a.head.k, after)},
                 values = {block(a.head.v, next), block(a.head.v, after)};
      LoadParams(k, begin, end, n, *b, b->k_params);
      for (int h = 0, m; h < n_heads; h += m) {
        switch (m = BlockHeads(n_heads - h)) {
          case 1: ScoreBlock<1>(k, n, b, h, &keys); break;
          case 2: ScoreBlock<2>(k, n, b, h, &keys); break;
          case 3: ScoreBlock<3>(k, n, b, h, &keys); break;
          default: ScoreBlock<4>(k, n, b, h, &keys); break;
        }
      }
      LoadParams(v, begin, end, n, *b, b->v_params);
      for (int h = 0; h < n_heads; ++h) Weigh(b, h, begin, end, n, a.shape.scale);
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
    End(a, first, n_heads, *b);
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
