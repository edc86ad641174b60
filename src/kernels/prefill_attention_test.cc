// Prefill attention against the reference, on every instruction set that this CPU has.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/attention_test_util.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/prefill_case_for_test.h"
#include "kernels/softmax_state.h"

namespace duo {
namespace {

using namespace attention_test;

class PrefillAttentionTest : public testing::TestWithParam<Isa> {
 protected:
  const AttentionKernels& kernels() const { return AttentionKernelsFor(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Isa, PrefillAttentionTest, testing::ValuesIn(LevelsOfThisCpu()),
                         [](const testing::TestParamInfo<Isa>& test) { return IsaName(test.param); });

struct PrefillInputs {
  PrefillInputs(const PrefillCase& c, uint64_t seed)
      : q((c.n_tokens * c.shape.group) * c.shape.head_dim, DType::kF32, c.shape.shift),
        k(c.n_rows, c.shape.head_dim, c.shape.kv_type, IsQuantized(c.shape.kv_type) ? 0 : c.shape.shift),
        v(c.n_rows, c.shape.head_dim, c.shape.kv_type, IsQuantized(c.shape.kv_type) ? 0 : c.shape.shift),
        out(q.size(), DType::kF32, c.shape.shift),
        scratch(PrefillScratchBytes(c.shape.group, c.shape.head_dim) / 4, DType::kF32, 0) {
    v.SetPart(KvPart::kValues);
    Rng rng(seed);
    FillExactQueries(&q, c.shape, 1.0, &rng);
    FillSeenRows(c, &k, &v, &rng);
  }
  Guarded q;
  TestRows k, v;
  Guarded out, scratch;
};

PrefillAttention Params(const PrefillCase& c, PrefillInputs* in) {
  return {.shape = ShapeOf(c),
          .head = HeadOf(c, in->q.floats(), in->k, in->v, in->out.floats(), nullptr),
          .scratch = in->scratch.data()};
}

void CheckPrefill(const AttentionKernels& kernels, const PrefillCase& c, uint64_t seed) {
  SCOPED_TRACE(Describe(c));
  ASSERT_LE(c.n_tokens, PrefillBlockTokens(c.shape.group, c.shape.head_dim));
  PrefillInputs in(c, seed);
  const int64_t group = c.shape.group, stride = group + 2;
  std::vector<float> lse(c.n_tokens * stride, -7.0f);
  PrefillAttention fast = Params(c, &in);
  fast.head.lse = lse.data(), fast.shape.lse_stride = stride;
  kernels.prefill(fast);
  EXPECT_TRUE(in.out.SurroundingsAreNan() && in.scratch.SurroundingsAreNan());

  const PrefillReference want(c, fast.head.q, fast.shape.q_stride, in.k, in.v);
  const Products products = LargestProducts(c.shape, in.q, in.k, c.n_tokens * group, c.n_rows);
  const double bound = RelativeBound(c.shape, c.n_rows, products, true) + PrefillBound(c.shape);
  const double absolute_bound = AbsoluteBound(c.shape, in.v, c.n_rows);
  for (int64_t i = 0; i < std::ssize(lse); ++i) {
    const bool some = i % stride < group;
    ASSERT_NEAR(lse[i], some ? want.lse[i / stride * group + i % stride] : -7.0f, some ? bound + 1e-5 : 0.0) << i;
  }
  for (int64_t i = 0; i < in.q.size(); ++i) {
    ASSERT_NEAR(in.out.Get(i), want.out[i], bound * want.magnitude[i] + absolute_bound + 1e-30)
        << "token " << i / (group * c.shape.head_dim) << " head " << i / c.shape.head_dim % group << " dim "
        << i % c.shape.head_dim;
  }
}

TEST_P(PrefillAttentionTest, AgreesWithReferenceForAllHeadDimsAndGroups) {
  uint64_t seed = 1;
  for (const int head_dim : {8, 10, 34, 62, 64, 80, 96, 128, 256, 512}) {
    for (const int group : {1, 2, 3, 4, 7, 8}) {
      const int shift = static_cast<int>(seed % 4);
      for (const Shape& s : TypesOf({.head_dim = head_dim, .group = group, .shift = shift})) {
        const int64_t most = PrefillBlockTokens(group, head_dim);
        CheckPrefill(kernels(), WholeCache(s, 40, std::min<int64_t>(most, 3 + seed % 11), {}), seed);
        ++seed;
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(PrefillAttentionTest, AgreesWithReferenceForAwkwardLengths) {
  uint64_t seed = 1000;
  for (const int64_t n_tokens : {1, 2, 5, 15, 16, 17, 48, 49, 96}) {
    for (const int64_t q_pos : {0, 1, 62, 63, 64, 127, 128, 129, 300}) {
      for (const Shape& s : TypesOf({.head_dim = 32, .group = 1, .shift = 1})) {
        CheckPrefill(kernels(), WholeCache(s, q_pos, n_tokens, {}), seed++);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(PrefillAttentionTest, FollowsTheLambdaMask) {
  uint64_t seed = 2000;
  const int64_t sinks[] = {0, 1, 4, 20, 70}, windows[] = {1, 2, 13, 40, 200, 100000};
  for (const int64_t sink : sinks) {
    for (const int64_t window : windows) {
      for (const int64_t q_pos : {0, 3, 50, 190}) {
        for (const Shape& s : TypesOf({.head_dim = 16, .group = 3, .shift = 1})) {
          CheckPrefill(kernels(), WholeCache(s, q_pos, 31, {.sink = sink, .window = window}), seed++);
          CheckPrefill(kernels(), SplitCache(s, q_pos, 31, {.sink = sink, .window = window}), seed++);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Positions beyond 32 bits, and a block of the largest size.
TEST_P(PrefillAttentionTest, AtVeryLargePositions) {
  const int64_t q_pos = (int64_t{1} << 33) + 5;
  for (const Shape& s : TypesOf({.head_dim = 64, .group = 4})) {
    CheckPrefill(kernels(), SplitCache(s, q_pos, 20, {.sink = 16, .window = 50}), 3);
    PrefillCase retrieval = {
        .shape = s, .n_tokens = 20, .q_pos = q_pos, .body_pos = q_pos - 100, .n_rows = 120, .mask = {}};
    CheckPrefill(kernels(), retrieval, 4);
  }
}

TEST_P(PrefillAttentionTest, OfALargestBlock) {
  for (const Shape& s : TypesOf({.head_dim = 128, .group = 4})) {
    CheckPrefill(kernels(), WholeCache(s, 150, PrefillBlockTokens(4, 128), {}), 5);
  }
}

TEST_P(PrefillAttentionTest, IsTokenByTokenDecode) {
  for (const Shape& s : TypesOf({.head_dim = 64, .group = 2})) {
    SCOPED_TRACE(Describe(s));
    const PrefillCase c = WholeCache(s, 0, 60, {});
    PrefillInputs in(c, 6);
    const PrefillAttention a = Params(c, &in);
    kernels().prefill(a);
    const double bound =
        2 * (RelativeBound(s, c.n_rows, LargestProducts(s, in.q, in.k, c.n_tokens * s.group, c.n_rows), true) +
             PrefillBound(s));
    const double absolute_bound = 2 * AbsoluteBound(s, in.v, c.n_rows);
    const TestRows absolute = in.v.Floats(true);
    for (int64_t t = 0; t < c.n_tokens; ++t) {
      State state(s);
      kernels().decode({.shape = ShapeOf(s),
                        .head = {.q = a.head.q + t * a.shape.q_stride, .k = a.head.k, .v = a.head.v},
                        .rows = {0, t + 1},
                        .states = state.states()});
      for (int g = 0; g < s.group; ++g) {
        std::vector<float> out(s.head_dim);
        FinishSoftmax(state.sum.Get(g), state.acc.floats() + g * s.head_dim, out.data(), s.head_dim);
        for (int i = 0; i < s.head_dim; ++i) {
          double largest = 0;
          for (int64_t r = 0; r <= t; ++r) largest = std::max<double>(largest, absolute.Get(r * s.head_dim + i));
          ASSERT_NEAR(out[i], a.head.out[t * a.shape.q_stride + g * s.head_dim + i], bound * largest + absolute_bound);
        }
      }
    }
  }
}

TEST_P(PrefillAttentionTest, DoesNotDependOnTheBlock) {
  const Shape s = {.head_dim = 64, .group = 4, .kv_type = KvType::kF32, .compute = ComputeType::kF32};
  const LambdaMask mask = {.sink = 4, .window = 30};
  const PrefillCase whole = WholeCache(s, 0, 90, mask);
  PrefillInputs in(whole, 8);
  const PrefillAttention a = Params(whole, &in);
  kernels().prefill(a);
  std::vector<float> pieces(in.q.size());
  for (int64_t t = 0; t < 90; t += 7) {
    PrefillAttention part = a;
    part.head.q = a.head.q + t * a.shape.q_stride;
    part.head.out = pieces.data() + t * a.shape.q_stride;
    part.shape.q_pos = t;
    part.shape.n_tokens = std::min<int64_t>(7, 90 - t);
    part.head.n_rows = t + part.shape.n_tokens;
    kernels().prefill(part);
  }
  for (int64_t i = 0; i < in.q.size(); ++i) ASSERT_NEAR(pieces[i], in.out.Get(i), 2e-5) << i;
}

TEST_P(PrefillAttentionTest, SurvivesExtremeScores) {
  for (const Shape& s : TypesOf({.head_dim = 16, .group = 2})) {
    SCOPED_TRACE(Describe(s));
    const PrefillCase c = WholeCache(s, 100, 60, {.sink = 8, .window = 40});
    PrefillInputs in(c, 9);
    for (int64_t i = 0; i < in.q.size(); ++i) in.q.Set(i, i % s.head_dim == 0 ? 100.0f : 0.0f);
    // Scores climb to 1e4 at the newest key, in steps of 100. So every query copies the value of its own position.
    for (int64_t r = 0; r < c.n_rows; ++r) {
      for (int d = 0; d < s.head_dim; ++d) {
        in.k.Set(r * s.head_dim + d, d == 0 ? -400.0f + 4.0f * static_cast<float>(r) : 0.0f);
        if (std::isnan(in.v.Get(r * s.head_dim + d))) in.v.Set(r * s.head_dim + d, 0.0f);
      }
    }
    const PrefillAttention a = Params(c, &in);
    kernels().prefill(a);
    for (int64_t t = 0; t < c.n_tokens; ++t) {
      for (int i = 0; i < s.group * s.head_dim; ++i) {
        const float want = in.v.Get((c.q_pos + t) * s.head_dim + i % s.head_dim);
        ASSERT_NEAR(a.head.out[t * a.shape.q_stride + i], want,
                    IsQuantized(s.kv_type) ? 0.004f * std::fabs(want) + 1e-4f : 0)
            << t;
      }
    }
  }
}

// A broken model must show; it must not answer with zeros.
TEST_P(PrefillAttentionTest, ANanInAKeyReachesEveryQueryThatSeesIt) {
  for (const Shape& s : TypesOf({.head_dim = 16, .group = 2})) {
    SCOPED_TRACE(Describe(s));
    const PrefillCase c = WholeCache(s, 100, 60, {.sink = 8, .window = 40});
    for (const int64_t row : {int64_t{3}, int64_t{130}}) {
      PrefillInputs in(c, 9);
      in.k.Set(row * s.head_dim, kNan);
      const PrefillAttention a = Params(c, &in);
      kernels().prefill(a);
      for (int64_t t = 0; t < c.n_tokens; ++t) {
        for (int i = 0; i < s.group * s.head_dim; ++i) {
          ASSERT_EQ(std::isnan(a.head.out[t * a.shape.q_stride + i]), Sees(c.mask, c.q_pos + t, row))
              << row << " " << t;
        }
      }
    }
  }
}

TEST(PrefillBlock, ScratchHoldsTheBlockAndFitsTheSecondLevelCache) {
  for (int head_dim = 8; head_dim <= 512; head_dim += 2) {
    for (const int group : {1, 3, 4, 7, 8, 12, 64}) {
      const int64_t tokens = PrefillBlockTokens(group, head_dim);
      EXPECT_GE(tokens, 1);
      EXPECT_GE(PrefillScratchBytes(group, head_dim), static_cast<size_t>(8) * tokens * group * head_dim);
      EXPECT_LE(PrefillScratchBytes(group, head_dim), size_t{1} << 20);
    }
  }
}

}  // namespace
}  // namespace duo
