// Decode attention against the reference, on every instruction set that this CPU has.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/attention_test_util.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/reference/attention_reference.h"
#include "kernels/softmax_state.h"

namespace duo {
namespace {

using namespace attention_test;

class DecodeAttentionTest : public testing::TestWithParam<Isa> {
 protected:
  const AttentionKernels& kernels() const { return AttentionKernelsFor(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Isa, DecodeAttentionTest, testing::ValuesIn(LevelsOfThisCpu()),
                         [](const testing::TestParamInfo<Isa>& test) { return IsaName(test.param); });

struct DecodeInputs {
  DecodeInputs(const Shape& s, double deviation, bool q_is_exact, Rng* rng)
      : q(int64_t{s.group} * s.head_dim, DType::kF32, s.shift),
        k(s.n_rows, s.head_dim, s.kv_type, s.shift),
        v(s.n_rows, s.head_dim, s.kv_type, s.shift) {
    v.SetPart(KvPart::kValues);
    if (q_is_exact) {
      FillExactQueries(&q, s, deviation, rng);
    } else {
      FillNormal(&q, deviation, rng);
    }
    FillNormal(&k, deviation, rng);
    FillNormal(&v, 1.0, rng);
  }
  Guarded q;
  TestRows k, v;
};

DecodeAttention Params(const Shape& s, DecodeInputs* in, State* state) {
  const int64_t first = in->k.first_row();
  return {.shape = ShapeOf(s),
          .head = {.q = in->q.floats(), .k = in->k.data(), .v = in->v.data()},
          .rows = {first, first + s.n_rows},
          .states = state->states()};
}

void ExpectStateNear(const Shape& s, DecodeInputs* in, const State& got, double bound) {
  State want(s), weight(s);
  ReferenceDecodeAttention(Params(s, in, &want));
  const TestRows keys = in->k.Floats(), magnitudes = in->v.Floats(true);
  DecodeAttention of_magnitudes = Params(s, in, &weight);
  of_magnitudes.head.k = keys.data(), of_magnitudes.head.v = magnitudes.data();
  of_magnitudes.shape.kv_type = KvType::kF32, of_magnitudes.rows = {0, s.n_rows};
  ReferenceDecodeAttention(of_magnitudes);
  const double absolute_bound = AbsoluteBound(s, in->v, s.n_rows);
  for (int g = 0; g < s.group; ++g) {
    const double got_sum = got.sum.Get(g), want_sum = want.sum.Get(g);
    if (s.n_rows == 0) {
      EXPECT_EQ(got.max.Get(g), kNegInf);
      EXPECT_EQ(got_sum, 0);
      continue;
    }
    EXPECT_NEAR(got.max.Get(g) + std::log(got_sum), want.max.Get(g) + std::log(want_sum),
                bound + std::ldexp(std::fabs(want.max.Get(g)), -23));
    for (int d = 0; d < s.head_dim; ++d) {
      const int64_t i = int64_t{g} * s.head_dim + d;
      ASSERT_NEAR(
          got.acc.Get(i) / got_sum, want.acc.Get(i) / want_sum,
          bound * weight.acc.Get(i) / want_sum + absolute_bound + WeightsBound(s, in->v, s.n_rows, want_sum) + 1e-30)
          << "head " << g << " dim " << d;
    }
  }
  EXPECT_TRUE(got.max.SurroundingsAreNan() && got.sum.SurroundingsAreNan() && got.acc.SurroundingsAreNan());
}

// query_steps: the integer that a query's largest element becomes where the kernel rounds queries to integers.
void CheckDecode(const AttentionKernels& kernels, const Shape& s, double deviation, bool q_is_exact, uint64_t seed,
                 double query_steps = 127) {
  SCOPED_TRACE(Describe(s));
  Rng rng(seed);
  DecodeInputs in(s, deviation, q_is_exact, &rng);
  State got(s);
  kernels.decode(Params(s, &in, &got));
  Products products = LargestProducts(s, in.q, in.k, s.group, s.n_rows);
  products.rounded *= 127 / query_steps;
  ExpectStateNear(s, &in, got, RelativeBound(s, s.n_rows, products, q_is_exact));
}

TEST_P(DecodeAttentionTest, AgreesWithReferenceForAllHeadDimsAndGroups) {
  uint64_t seed = 1;
  for (const int head_dim : {8, 10, 34, 62, 64, 80, 96, 128, 256, 512}) {
    for (const int group : {1, 2, 3, 4, 5, 6, 7, 8, 17}) {
      for (const Shape& s :
           TypesOf({.head_dim = head_dim, .group = group, .n_rows = 70, .shift = static_cast<int>(seed % 4)})) {
        CheckDecode(kernels(), s, 1.0, true, seed++);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(DecodeAttentionTest, AgreesWithReferenceForAllRowCounts) {
  uint64_t seed = 1000;
  for (const int head_dim : {10, 64, 128}) {
    for (const int group : {1, 2, 3, 4, 7}) {
      for (const int64_t n_rows : {0, 1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 1000}) {
        for (const Shape& s : TypesOf({.head_dim = head_dim, .group = group, .n_rows = n_rows, .shift = 1})) {
          CheckDecode(kernels(), s, 1.0, true, seed++);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(DecodeAttentionTest, RoundsQueriesWithinTheBound) {
  const double query_steps = GetParam() < Isa::kAvx512Vnni ? 16383 : 127;
  for (const Shape& s : TypesOf({.head_dim = 128, .group = 4, .n_rows = 300})) {
    CheckDecode(kernels(), s, 1.5, false, 7, query_steps);
  }
}

// 512 products of the largest codes and queries bring integer sums close to the limit of 32 bits.
TEST_P(DecodeAttentionTest, LargestSumsOfProductsFit) {
  for (const float sign : {1.0f, -1.0f}) {
    for (const Shape& s : TypesOf({.head_dim = 512, .group = 4, .n_rows = 300})) {
      SCOPED_TRACE(Describe(s));
      Rng rng(5);
      DecodeInputs in(s, 1.0, true, &rng);
      for (int64_t i = 0; i < in.q.size(); ++i) in.q.Set(i, sign * 0.25f);
      std::vector<float> row(512, 1.0f);
      row[7] = 0.0f;
      for (int64_t r = 0; r < s.n_rows; ++r) in.k.SetRow(r, row.data());
      State got(s);
      kernels().decode(Params(s, &in, &got));
      ExpectStateNear(s, &in, got, RelativeBound(s, s.n_rows, LargestProducts(s, in.q, in.k, 4, s.n_rows), true));
    }
  }
}

TEST_P(DecodeAttentionTest, ANanInAQueryReachesItsOutputAlone) {
  for (const Shape& s : TypesOf({.head_dim = 80, .group = 5, .n_rows = 100})) {
    SCOPED_TRACE(Describe(s));
    Rng rng(6);
    DecodeInputs in(s, 1.0, true, &rng);
    in.q.Set(80 * 2 + 79, std::nanf(""));
    State got(s);
    kernels().decode(Params(s, &in, &got));
    for (int g = 0; g < s.group; ++g) {
      EXPECT_EQ(std::isnan(got.acc.Get(80 * g) / got.sum.Get(g)), g == 2) << "head " << g;
    }
  }
}

TEST_P(DecodeAttentionTest, InPiecesMergesToTheWhole) {
  for (const Shape& s : TypesOf({.head_dim = 80, .group = 5, .n_rows = 333, .shift = 1})) {
    SCOPED_TRACE(Describe(s));
    Rng rng(11);
    DecodeInputs in(s, 1.0, true, &rng);
    State continued(s), merged(s);
    int64_t row = 0;
    for (const int64_t n : {1, 0, 63, 64, 100, 105}) {
      State piece(s);
      for (State* state : {&continued, &piece}) {
        DecodeAttention a = Params(s, &in, state);
        a.rows.begin += row;
        a.rows.end = a.rows.begin + n;
        kernels().decode(a);
      }
      for (int g = 0; g < s.group; ++g) {
        MergeSoftmaxState(merged.max.floats() + g, merged.sum.floats() + g, merged.acc.floats() + g * s.head_dim,
                          piece.max.Get(g), piece.sum.Get(g), piece.acc.floats() + g * s.head_dim, s.head_dim);
      }
      row += n;
    }
    ASSERT_EQ(row, s.n_rows);
    const double bound = RelativeBound(s, s.n_rows, LargestProducts(s, in.q, in.k, s.group, s.n_rows), true);
    ExpectStateNear(s, &in, continued, bound);
    ExpectStateNear(s, &in, merged, bound);
  }
}

TEST_P(DecodeAttentionTest, OfEqualScoresIsTheMeanOfTheValues) {
  for (const Shape& s : TypesOf({.head_dim = 64, .group = 4, .n_rows = 256})) {
    for (const bool far_apart :
         {false, true}) {  // false: rows of equal elements; true: rows of only the first and the last code
      SCOPED_TRACE(Describe(s));
      Rng rng(12);
      DecodeInputs in(s, 0.0, true, &rng);
      for (int64_t i = 0; i < in.v.size(); ++i) {
        const int64_t row = i / s.head_dim;
        in.v.Set(i, static_cast<float>(far_apart ? (i + row) % 2 * 255 : row % 2));
      }
      State got(s);
      kernels().decode(Params(s, &in, &got));
      for (int g = 0; g < s.group; ++g) {
        EXPECT_EQ(got.max.Get(g), 0.0f);
        EXPECT_EQ(got.sum.Get(g), 256.0f);
        for (int d = 0; d < s.head_dim; ++d) {
          const float mean = far_apart ? 128.0f * 255.0f : 128.0f;
          ASSERT_NEAR(got.acc.Get(g * s.head_dim + d), mean, IsQuantized(s.kv_type) ? mean * 1e-6f : 0.0f) << d;
        }
      }
    }
  }
}

// One key scores far above the others, at several places of a block in turn. Scores are +-1e4.
TEST_P(DecodeAttentionTest, SurvivesExtremeScores) {
  for (const Shape& s : TypesOf({.head_dim = 16, .group = 2, .n_rows = 130})) {
    for (const int64_t winner : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{64}, int64_t{100}, int64_t{129}}) {
      SCOPED_TRACE(Describe(s) + " winner " + std::to_string(winner));
      Rng rng(13);
      DecodeInputs in(s, 0.0, true, &rng);
      for (int g = 0; g < s.group; ++g) in.q.Set(g * s.head_dim, 100.0f);
      for (int64_t r = 0; r < s.n_rows; ++r) in.k.Set(r * s.head_dim, r == winner ? 400.0f : -400.0f);
      State got(s);
      kernels().decode(Params(s, &in, &got));
      for (int g = 0; g < s.group; ++g) {
        const float near =
            IsQuantized(s.kv_type) ? 1e-4f : 0.0f;  // relative error of the winner's code and of the weight's code
        const float score = 25.0f * in.k.Get(winner * s.head_dim);
        EXPECT_NEAR(got.max.Get(g), score, score * near);
        EXPECT_EQ(got.sum.Get(g), 1.0f);
        for (int d = 0; d < s.head_dim; ++d) {
          EXPECT_NEAR(got.acc.Get(g * s.head_dim + d), in.v.Get(winner * s.head_dim + d), near);
        }
      }
    }
  }
}

// A broken model must show; it must not answer with zeros.
TEST_P(DecodeAttentionTest, ANanInAKeyOrAValueReachesTheOutput) {
  for (const Shape& s : TypesOf({.head_dim = 16, .group = 2, .n_rows = 130})) {
    for (const int64_t row : {int64_t{0}, int64_t{63}, int64_t{129}}) {
      for (const bool in_key : {true, false}) {
        SCOPED_TRACE(Describe(s) + " row " + std::to_string(row));
        Rng rng(13);
        DecodeInputs in(s, 1.0, true, &rng);
        (in_key ? in.k : in.v).Set(row * s.head_dim, kNan);
        State got(s);
        kernels().decode(Params(s, &in, &got));
        for (int g = 0; g < s.group; ++g) {
          EXPECT_TRUE(std::isnan(in_key ? got.sum.Get(g) : got.acc.Get(g * s.head_dim)));
        }
      }
    }
  }
}

// A piece whose only row has a NaN key has no maximum.
TEST_P(DecodeAttentionTest, ANanAloneInItsPieceSurvivesMerging) {
  for (const Shape& s : TypesOf({.head_dim = 16, .group = 2, .n_rows = 1})) {
    SCOPED_TRACE(Describe(s));
    Rng rng(14);
    DecodeInputs good(s, 1.0, true, &rng), bad(s, 1.0, true, &rng);
    bad.k.Set(0, kNan);
    State merged(s), piece(s);
    kernels().decode(Params(s, &good, &merged));
    kernels().decode(Params(s, &bad, &piece));
    MergeSoftmaxState(merged.max.floats(), merged.sum.floats(), merged.acc.floats(), piece.max.Get(0), piece.sum.Get(0),
                      piece.acc.floats(), s.head_dim);
    EXPECT_TRUE(std::isnan(merged.sum.Get(0)));
  }
}

}  // namespace
}  // namespace duo
