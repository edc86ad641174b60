// Attention of the CPU backend against the references in double, with caches and chunks so long that several threads
// share the work of one head. Tolerances: docs/numerics.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu_for_test.h"
#include "backend/decode_split.h"
#include "backend/heap_bytes_for_test.h"
#include "base/rng.h"
#include "kernels/attention_test_util.h"
#include "kernels/dense_test_util.h"
#include "kernels/prefill_case_for_test.h"
#include "kernels/reference/attention_reference.h"

namespace duo {
namespace {

using attention_test::Guarded;
using attention_test::PrefillCase;
using attention_test::Shape;
using attention_test::TestRows;
using testing_util::kUnit;
using testing_util::Normal;
using Floats = std::vector<float>;

/// The keys and values of one head of a decode step. Values drift along the sequence, so that leaving out a part of the
/// rows changes the result by much more than rounding does.
struct DecodeCache {
  DecodeCache(const Shape& s, int64_t n_rows, Rng* rng)
      : k(n_rows, s.head_dim, s.kv_type, 0), v(n_rows, s.head_dim, s.kv_type, 0) {
    v.SetPart(KvPart::kValues);
    attention_test::FillNormal(&k, 1.0, rng);
    for (int64_t row = 0; row < n_rows; ++row) {
      Floats values = Normal(rng, s.head_dim);
      for (float& value : values) value += 3.0f * static_cast<float>(row) / static_cast<float>(n_rows);
      v.SetRow(row, values.data());
    }
  }
  TestRows k, v;
};

/// The reference's result for one head with rows of this type.
struct DecodeExpected {
  DecodeExpected(const Shape& s, KvType type, const DecodeHead& head)
      : max(s.group, kNegInf), sum(s.group, 0.0f), out(s.group * s.head_dim, 0.0f) {
    AttentionShape shape = ShapeOf(s);
    shape.kv_type = type;
    const SoftmaxStates states{.max = max.data(), .sum = sum.data(), .acc = out.data()};
    for (const RowRange& range : head.ranges) ReferenceDecodeAttention({shape, head, range, states});
    for (int64_t i = 0; i < std::ssize(out); ++i) out[i] /= sum[i / s.head_dim];
  }
  Floats max, sum, out;
};

void CheckDecodeHead(const Shape& s, const DecodeCache& cache, const Guarded& q, const DecodeHead& head) {
  const int64_t n_keys = cache.k.n_rows();
  const DecodeExpected want(s, s.kv_type, head);
  const TestRows keys = cache.k.Floats(), magnitudes = cache.v.Floats(true);
  DecodeHead of_magnitudes = head;
  of_magnitudes.k = keys.data(), of_magnitudes.v = magnitudes.data();
  const DecodeExpected magnitude(s, KvType::kF32, of_magnitudes);
  const double relative = attention_test::RelativeBound(
      s, n_keys, attention_test::LargestProducts(s, q, cache.k, q.size() / s.head_dim, n_keys), true);
  for (int g = 0; g < s.group; ++g) {
    const double absolute = attention_test::AbsoluteBound(s, cache.v, n_keys) +
                            attention_test::WeightsBound(s, cache.v, n_keys, static_cast<double>(want.sum[g])) + kUnit;
    EXPECT_NEAR(head.lse[g], want.max[g] + std::log(want.sum[g]), relative + 1e-5) << attention_test::Describe(s);
    for (int i = g * s.head_dim; i < (g + 1) * s.head_dim; ++i) {
      ASSERT_NEAR(head.out[i], want.out[i], relative * static_cast<double>(magnitude.out[i]) + absolute)
          << attention_test::Describe(s) << " query " << g;
    }
  }
}

TEST(CpuAttention, DecodeOfLongCachesAgreesWithReference) {
  Rng rng(25);
  const int64_t n_heads = 3, n_rows = 12000;
  for (const Shape& s : attention_test::TypesOf({.head_dim = 16, .group = 3})) {
    const int64_t width = int64_t{s.group} * s.head_dim;
    Guarded q(n_heads * width, DType::kF32, 0);
    attention_test::FillExactQueries(&q, s, 1.0, &rng);
    std::vector<DecodeCache> caches;
    for (int64_t h = 0; h < n_heads; ++h) caches.emplace_back(s, n_rows, &rng);
    for (const int n_threads : {1, 2, 3}) {
      Floats out(n_heads * width, NAN), lse(n_heads * s.group, NAN);
      std::vector<DecodeHead> heads(n_heads);
      for (int64_t h = 0; h < n_heads; ++h) {
        heads[h].q = q.floats() + h * width;
        heads[h].k = caches[h].k.data();
        heads[h].v = caches[h].v.data();
        heads[h].out = out.data() + h * width;
        heads[h].lse = lse.data() + h * s.group;
        heads[h].ranges[0] = {h == 0 ? 0 : 5, h == 0 ? n_rows : 138};
        if (h > 0) heads[h].ranges[1] = {1000 * h, n_rows - h};
      }
      AttentionShape shape = ShapeOf(s);
      shape.q_stride = n_heads * width;
      ASSERT_TRUE(CpuWith(n_threads)->DecodeAttention(shape, heads).ok());
      for (int64_t h = 0; h < n_heads; ++h) CheckDecodeHead(s, caches[h], q, heads[h]);
      if (HasFailure()) return;
    }
  }
}

// Every range of every head ends in a piece of one row.
TEST(SplitDecode, BoundOfPiecesIsReached) {
  for (const int n_threads : {2, 7}) {
    std::vector<DecodeHead> heads(3);
    for (DecodeHead& head : heads) {
      head.ranges[0] = {0, 1};
      head.ranges[1] = {2, 3};
    }
    heads[0].ranges[1].end += (n_threads * 8 - 1) * (int64_t{1} << 14);
    const int64_t made = std::ssize(SplitDecode(heads, 3, n_threads, DecodeCut::kBalanced));
    const int64_t most = MaxDecodePieces(3, 1, n_threads, DecodeCut::kBalanced);
    EXPECT_LE(made, most);
    EXPECT_GE(made + 1, most);
  }
}

/// One head of a prefill step: its rows, and the reference's result.
struct TestHead {
  TestHead(const PrefillCase& of, const float* q, int64_t q_stride, Rng* rng)
      : c(of),
        k(c.n_rows, c.shape.head_dim, c.shape.kv_type, 0),
        v(c.n_rows, c.shape.head_dim, c.shape.kv_type, 0),
        want(Filled(rng), q, q_stride, k, v) {}
  PrefillHead Task(const float* q, float* out, float* lse) const { return HeadOf(c, q, k, v, out, lse); }

  PrefillCase c;
  TestRows k, v;
  attention_test::PrefillReference want;

 private:
  const PrefillCase& Filled(Rng* rng) {
    v.SetPart(KvPart::kValues);
    attention_test::FillSeenRows(c, &k, &v, rng);
    return c;
  }
};

void CheckPrefillHead(const TestHead& head, const Guarded& q, const float* out, int64_t q_stride, const float* lse,
                      int64_t lse_stride) {
  const Shape& s = head.c.shape;
  const int64_t width = int64_t{s.group} * s.head_dim;
  const double relative =
      attention_test::RelativeBound(
          s, head.c.n_rows, attention_test::LargestProducts(s, q, head.k, q.size() / s.head_dim, head.c.n_rows), true) +
      attention_test::PrefillBound(s);
  const double absolute = attention_test::AbsoluteBound(s, head.v, head.c.n_rows) + 1e-30;
  for (int64_t t = 0; t < head.c.n_tokens; ++t) {
    for (int64_t g = 0; g < s.group; ++g) {
      ASSERT_NEAR(lse[t * lse_stride + g], head.want.lse[t * s.group + g], relative + 1e-5)
          << attention_test::Describe(head.c) << " token " << t;
    }
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = t * width + i;
      const double bound = relative * static_cast<double>(head.want.magnitude[at]) + absolute;
      ASSERT_NEAR(out[t * q_stride + i], head.want.out[at], bound)
          << attention_test::Describe(head.c) << " token " << t << " element " << i;
    }
  }
}

TEST(CpuAttention, PrefillOfSeveralBlocksAgreesWithReference) {
  Rng rng(27);
  for (const Shape& s : attention_test::TypesOf({.head_dim = 32, .group = 8})) {
    const int64_t n_tokens = 2 * PrefillBlockTokens(s.group, s.head_dim) + 11, q_pos = 41;
    const int64_t width = int64_t{s.group} * s.head_dim, q_stride = 2 * width + s.head_dim;
    const int64_t lse_stride = 2 * s.group + 1;
    Guarded q(n_tokens * q_stride, DType::kF32, 0);
    attention_test::FillExactQueries(&q, s, 1.0, &rng);
    const TestHead heads[] = {
        {attention_test::WholeCache(s, q_pos, n_tokens, {}), q.floats(), q_stride, &rng},
        {attention_test::SplitCache(s, q_pos, n_tokens, {.sink = 5, .window = 23}), q.floats() + width, q_stride, &rng},
    };
    AttentionShape shape = ShapeOf(heads[0].c);
    shape.q_stride = q_stride, shape.lse_stride = lse_stride;
    for (const int n_threads : {1, 2, 3}) {
      Floats out(q.size(), NAN), lse(n_tokens * lse_stride, NAN);
      const PrefillHead tasks[] = {heads[0].Task(q.floats(), out.data(), lse.data()),
                                   heads[1].Task(q.floats() + width, out.data() + width, lse.data() + s.group)};
      ASSERT_TRUE(CpuWith(n_threads)->PrefillAttention(shape, tasks).ok());
      for (int64_t h = 0; h < 2; ++h) {
        CheckPrefillHead(heads[h], q, out.data() + h * width, q_stride, lse.data() + h * s.group, lse_stride);
      }
      if (HasFatalFailure()) return;
    }
  }
}

// A lower limit shows that every thread has its own part of the scratch.
TEST(CpuAttention, PrefillTakesAtMostTheBoundOfScratch) {
  if (!testing_util::HeapBytesWork()) GTEST_SKIP() << "SKIPPED: the heap does not tell how much it holds";
  Rng rng(28);
  const Shape s{.head_dim = 64, .group = 4};
  const Floats q = Normal(&rng, int64_t{s.group} * s.head_dim);
  const std::vector<uint8_t> rows(KvBytes(KvType::kBF16, s.head_dim, 1), 0);
  for (const int n_threads : {1, 2, 3}) {
    const BackendPtr backend = CpuWith(n_threads);
    Floats out(q.size());
    const PrefillHead heads[] = {
        {.q = q.data(), .k = rows.data(), .v = rows.data(), .n_rows = 1, .mask = {}, .out = out.data()}};
    AttentionShape shape = ShapeOf(s);
    shape.q_stride = std::ssize(q);
    const size_t before = testing_util::HeapBytes();
    ASSERT_TRUE(backend->PrefillAttention(shape, heads).ok());
    const size_t taken = testing_util::HeapBytes() - before;
    EXPECT_LE(taken, backend->MaxScratchBytes({.widest_input = 1, .group = s.group, .head_dim = s.head_dim}));
    EXPECT_GE(taken, static_cast<size_t>(n_threads) * PrefillScratchBytes(s.group, s.head_dim));
  }
}

}  // namespace
}  // namespace duo
