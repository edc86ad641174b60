// Every instruction set that this CPU has against the reference. Bounds are the formula of docs/numerics.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/reference/attention_reference.h"
#include "kernels/softmax_state.h"

namespace duo {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kPoison = 96;  // elements of NaN around every array

// An array between NaNs that starts `shift` elements off a 64-byte boundary; every element is NaN until set.
class Guarded {
 public:
  Guarded(int64_t n, DType type, int shift) : type_(type), n_(n) {
    const size_t element = DTypeBytes(type);
    bytes_.resize((n + 2 * kPoison + 64) * element + 64);
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    const size_t to_boundary = (64 - address % 64) % 64;
    begin_ = bytes_.data() + to_boundary + (kPoison + shift) * element;
    for (int64_t i = -kPoison; i < n + kPoison; ++i) Set(i, kNan);
  }
  void Set(int64_t i, float x) {
    if (type_ == DType::kF32) {
      std::memcpy(begin_ + i * 4, &x, 4);
    } else {
      const bf16 h = ToBf16(x);
      std::memcpy(begin_ + i * 2, &h, 2);
    }
  }
  float Get(int64_t i) const {
    if (type_ == DType::kF32) {
      float x;
      std::memcpy(&x, begin_ + i * 4, 4);
      return x;
    }
    bf16 h;
    std::memcpy(&h, begin_ + i * 2, 2);
    return ToFloat(h);
  }
  void* data() { return begin_; }
  float* floats() { return static_cast<float*>(static_cast<void*>(begin_)); }
  int64_t size() const { return n_; }
  bool SurroundingsAreNan() const {
    for (int64_t i = 1; i <= kPoison; ++i) {
      if (!std::isnan(Get(-i)) || !std::isnan(Get(n_ - 1 + i))) return false;
    }
    return true;
  }
  Guarded Absolute() const {
    Guarded copy(n_, type_, 0);
    for (int64_t i = 0; i < n_; ++i) copy.Set(i, std::fabs(Get(i)));
    return copy;
  }

 private:
  DType type_;
  int64_t n_;
  std::vector<uint8_t> bytes_;
  uint8_t* begin_;
};

struct Shape {
  int head_dim = 64;
  int group = 1;
  int64_t n_rows = 64;  // decode
  DType kv_type = DType::kBF16;
  AttentionMath math = AttentionMath::kBF16;
  int shift = 0;  // elements off alignment
};

std::string Describe(const Shape& s) {
  return "head_dim " + std::to_string(s.head_dim) + " group " + std::to_string(s.group) + " rows " +
         std::to_string(s.n_rows) + " kv " + DTypeName(s.kv_type) +
         (s.math == AttentionMath::kBF16 ? " math bf16" : " math f32") + " shift " + std::to_string(s.shift);
}

void FillNormal(Guarded* x, double deviation, Rng* rng) {
  for (int64_t i = 0; i < x->size(); ++i) x->Set(i, static_cast<float>(rng->Normal() * deviation));
}

// docs/numerics.md, "Attention": |out - exact| <= weighted |v| * RelativeBound, where
// largest_product = max over queries and keys of scale * sum_d |q_d k_d|.
double RelativeBound(const Shape& s, int64_t n_keys, double largest_product, bool q_is_bf16) {
  const double u = std::ldexp(1.0, -24), u16 = std::ldexp(1.0, -9);
  const bool pairs = s.math == AttentionMath::kBF16 && s.kv_type == DType::kBF16;
  const double score_error = largest_product * (s.head_dim * u + (pairs && !q_is_bf16 ? u16 : 0.0) + 8 * u);
  return 2 * score_error + (static_cast<double>(n_keys) + 64) * u + (pairs ? 2 * u16 : 0.0);
}

class AttentionKernelsTest : public testing::TestWithParam<Isa> {
 protected:
  const AttentionKernels& kernels() const { return AttentionKernelsFor(GetParam()); }
};

std::vector<Isa> LevelsOfThisCpu() {
  std::vector<Isa> levels;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa <= DetectIsa()) levels.push_back(isa);
  }
  return levels;
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionKernelsTest, testing::ValuesIn(LevelsOfThisCpu()),
                         [](const testing::TestParamInfo<Isa>& test) { return IsaName(test.param); });

// Decode
// ---------------------------------------------------------------------------------------------------------------

struct DecodeInputs {
  DecodeInputs(const Shape& s, double deviation, bool q_is_bf16, Rng* rng)
      : q(int64_t{s.group} * s.head_dim, DType::kF32, s.shift),
        k(s.n_rows * s.head_dim, s.kv_type, s.shift),
        v(s.n_rows * s.head_dim, s.kv_type, s.shift) {
    FillNormal(&q, deviation, rng);
    FillNormal(&k, deviation, rng);
    FillNormal(&v, 1.0, rng);
    if (q_is_bf16) {
      for (int64_t i = 0; i < q.size(); ++i) q.Set(i, ToFloat(ToBf16(q.Get(i))));
    }
  }
  Guarded q, k, v;
};

struct State {
  explicit State(const Shape& s)
      : max(s.group, DType::kF32, s.shift),
        sum(s.group, DType::kF32, s.shift),
        acc(int64_t{s.group} * s.head_dim, DType::kF32, s.shift) {
    for (int g = 0; g < s.group; ++g) max.Set(g, kNegInf), sum.Set(g, 0);
    for (int64_t i = 0; i < acc.size(); ++i) acc.Set(i, 0);
  }
  Guarded max, sum, acc;
};

DecodeAttention Params(const Shape& s, DecodeInputs* in, State* state) {
  DecodeAttention a;
  a.q = in->q.floats();
  a.k = in->k.data();
  a.v = in->v.data();
  a.n_rows = s.n_rows;
  a.group = s.group;
  a.head_dim = s.head_dim;
  a.kv_type = s.kv_type;
  a.math = s.math;
  a.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  a.max = state->max.floats();
  a.sum = state->sum.floats();
  a.acc = state->acc.floats();
  return a;
}

double LargestProduct(const Shape& s, const Guarded& q, const Guarded& k, int64_t n_queries, int64_t n_rows) {
  double largest = 0;
  for (int64_t i = 0; i < n_queries; ++i) {
    for (int64_t r = 0; r < n_rows; ++r) {
      double product = 0;
      for (int d = 0; d < s.head_dim; ++d)
        product += std::fabs(double{q.Get(i * s.head_dim + d)} * k.Get(r * s.head_dim + d));
      if (product > largest) largest = product;  // false for rows of NaN, which nobody sees
    }
  }
  return largest / std::sqrt(static_cast<double>(s.head_dim));
}

void ExpectStateNear(const Shape& s, DecodeInputs* in, const State& got, double bound) {
  State want(s), weight(s);
  ReferenceDecodeAttention(Params(s, in, &want));
  Guarded absolute = in->v.Absolute();
  DecodeAttention of_absolute = Params(s, in, &weight);
  of_absolute.v = absolute.data();
  ReferenceDecodeAttention(of_absolute);
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
      ASSERT_NEAR(got.acc.Get(i) / got_sum, want.acc.Get(i) / want_sum, bound * weight.acc.Get(i) / want_sum + 1e-30)
          << "head " << g << " dim " << d;
    }
  }
  EXPECT_TRUE(got.max.SurroundingsAreNan() && got.sum.SurroundingsAreNan() && got.acc.SurroundingsAreNan());
}

void CheckDecode(const AttentionKernels& kernels, const Shape& s, double deviation, bool q_is_bf16, uint64_t seed) {
  SCOPED_TRACE(Describe(s));
  Rng rng(seed);
  DecodeInputs in(s, deviation, q_is_bf16, &rng);
  State got(s);
  kernels.decode(Params(s, &in, &got));
  const double product = LargestProduct(s, in.q, in.k, s.group, s.n_rows);
  ExpectStateNear(s, &in, got, RelativeBound(s, s.n_rows, product, q_is_bf16));
}

std::vector<Shape> TypesOf(Shape s) {
  std::vector<Shape> shapes;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const AttentionMath math : {AttentionMath::kF32, AttentionMath::kBF16}) {
      s.kv_type = type;
      s.math = math;
      shapes.push_back(s);
    }
  }
  return shapes;
}

TEST_P(AttentionKernelsTest, DecodeAgreesWithReferenceForAllHeadDimsAndGroups) {
  uint64_t seed = 1;
  for (const int head_dim : {8, 10, 14, 16, 34, 62, 64, 80, 96, 112, 128, 256, 512}) {
    for (const int group : {1, 2, 3, 4, 5, 6, 7, 8, 12, 17}) {
      for (const Shape& s :
           TypesOf({.head_dim = head_dim, .group = group, .n_rows = 70, .shift = static_cast<int>(seed % 4)})) {
        CheckDecode(kernels(), s, 1.0, true, seed++);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(AttentionKernelsTest, DecodeAgreesWithReferenceForAllRowCounts) {
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

TEST_P(AttentionKernelsTest, DecodeRoundsQueriesWithinTheBound) {
  for (const Shape& s : TypesOf({.head_dim = 128, .group = 4, .n_rows = 300})) CheckDecode(kernels(), s, 1.5, false, 7);
}

TEST_P(AttentionKernelsTest, DecodeInPiecesMergesToTheWhole) {
  for (const Shape& s : TypesOf({.head_dim = 80, .group = 5, .n_rows = 333, .shift = 1})) {
    SCOPED_TRACE(Describe(s));
    Rng rng(11);
    DecodeInputs in(s, 1.0, true, &rng);
    State continued(s), merged(s);
    const size_t row_bytes = s.head_dim * DTypeBytes(s.kv_type);
    int64_t row = 0;
    for (const int64_t n : {1, 0, 63, 64, 100, 105}) {
      State piece(s);
      for (State* state : {&continued, &piece}) {
        DecodeAttention a = Params(s, &in, state);
        a.k = static_cast<const char*>(a.k) + row * row_bytes;
        a.v = static_cast<const char*>(a.v) + row * row_bytes;
        a.n_rows = n;
        kernels().decode(a);
      }
      for (int g = 0; g < s.group; ++g) {
        MergeSoftmaxState(merged.max.floats() + g, merged.sum.floats() + g, merged.acc.floats() + g * s.head_dim,
                          piece.max.Get(g), piece.sum.Get(g), piece.acc.floats() + g * s.head_dim, s.head_dim);
      }
      row += n;
    }
    ASSERT_EQ(row, s.n_rows);
    const double bound = RelativeBound(s, s.n_rows, LargestProduct(s, in.q, in.k, s.group, s.n_rows), true);
    ExpectStateNear(s, &in, continued, bound);
    ExpectStateNear(s, &in, merged, bound);
  }
}

TEST_P(AttentionKernelsTest, DecodeOfEqualScoresIsTheMeanOfTheValues) {
  for (const Shape& s : TypesOf({.head_dim = 64, .group = 4, .n_rows = 256})) {
    SCOPED_TRACE(Describe(s));
    Rng rng(12);
    DecodeInputs in(s, 0.0, true, &rng);
    for (int64_t i = 0; i < in.v.size(); ++i) in.v.Set(i, static_cast<float>(i / s.head_dim % 2));
    State got(s);
    kernels().decode(Params(s, &in, &got));
    for (int g = 0; g < s.group; ++g) {
      EXPECT_EQ(got.max.Get(g), 0.0f);
      EXPECT_EQ(got.sum.Get(g), 256.0f);
      for (int d = 0; d < s.head_dim; ++d) EXPECT_EQ(got.acc.Get(g * s.head_dim + d), 128.0f);
    }
  }
}

// One key far above the others, in turn at every place of a block, and scores of +-1e4.
TEST_P(AttentionKernelsTest, DecodeSurvivesExtremeScores) {
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
        EXPECT_EQ(got.max.Get(g), 10000.0f);
        EXPECT_EQ(got.sum.Get(g), 1.0f);
        for (int d = 0; d < s.head_dim; ++d) {
          EXPECT_EQ(got.acc.Get(g * s.head_dim + d), in.v.Get(winner * s.head_dim + d));
        }
      }
    }
  }
}

// Prefill
// --------------------------------------------------------------------------------------------------------------

struct PrefillCase {
  Shape shape;
  int64_t n_tokens = 1;
  int64_t q_pos = 0;
  int64_t n_sink_rows = 0;
  int64_t body_pos = 0;
  int64_t n_rows = 0;
  LambdaMask mask;
};

std::string Describe(const PrefillCase& c) {
  return Describe(c.shape) + " tokens " + std::to_string(c.n_tokens) + " at " + std::to_string(c.q_pos) + " rows " +
         std::to_string(c.n_rows) + " (" + std::to_string(c.n_sink_rows) + " sinks, body at " +
         std::to_string(c.body_pos) + ") sink " + std::to_string(c.mask.sink) + " window " +
         std::to_string(c.mask.window);
}

// A retrieval or streaming head whose cache holds every position up to the last token of the chunk.
PrefillCase WholeCache(Shape s, int64_t q_pos, int64_t n_tokens, LambdaMask mask) {
  return {.shape = s, .n_tokens = n_tokens, .q_pos = q_pos, .n_rows = q_pos + n_tokens, .mask = mask};
}

// A streaming head that kept its sinks and the window before the chunk.
PrefillCase SplitCache(Shape s, int64_t q_pos, int64_t n_tokens, LambdaMask mask) {
  const int64_t sinks = std::min(mask.sink, q_pos);
  const int64_t body_pos = std::max(sinks, q_pos - mask.window + 1);
  return {.shape = s,
          .n_tokens = n_tokens,
          .q_pos = q_pos,
          .n_sink_rows = sinks,
          .body_pos = body_pos,
          .n_rows = sinks + q_pos + n_tokens - body_pos,
          .mask = mask};
}

struct PrefillInputs {
  PrefillInputs(const PrefillCase& c, uint64_t seed)
      : q((c.n_tokens * c.shape.group) * c.shape.head_dim, DType::kF32, c.shape.shift),
        k(c.n_rows * c.shape.head_dim, c.shape.kv_type, c.shape.shift),
        v(c.n_rows * c.shape.head_dim, c.shape.kv_type, c.shape.shift),
        out(q.size(), DType::kF32, c.shape.shift),
        scratch(PrefillScratchBytes(c.shape.group, c.shape.head_dim) / 4, DType::kF32, 0) {
    Rng rng(seed);
    for (int64_t i = 0; i < q.size(); ++i) q.Set(i, ToFloat(ToBf16(static_cast<float>(rng.Normal()))));
    const int64_t d = c.shape.head_dim;
    for (int64_t r = 0; r < c.n_rows; ++r) {
      const int64_t pos = r < c.n_sink_rows ? r : c.body_pos + r - c.n_sink_rows;
      bool seen = false;  // rows that no query sees stay NaN: touching them shows
      for (int64_t t = 0; t < c.n_tokens && !seen; ++t) seen = Sees(c.mask, c.q_pos + t, pos);
      for (int64_t i = 0; i < d && seen; ++i) {
        k.Set(r * d + i, static_cast<float>(rng.Normal()));
        v.Set(r * d + i, static_cast<float>(rng.Normal()));
      }
    }
  }
  Guarded q, k, v, out, scratch;
};

PrefillAttention Params(const PrefillCase& c, PrefillInputs* in) {
  PrefillAttention a;
  a.q = in->q.floats();
  a.q_stride = int64_t{c.shape.group} * c.shape.head_dim;
  a.q_pos = c.q_pos;
  a.n_tokens = c.n_tokens;
  a.group = c.shape.group;
  a.head_dim = c.shape.head_dim;
  a.k = in->k.data();
  a.v = in->v.data();
  a.n_rows = c.n_rows;
  a.n_sink_rows = c.n_sink_rows;
  a.body_pos = c.body_pos;
  a.kv_type = c.shape.kv_type;
  a.math = c.shape.math;
  a.mask = c.mask;
  a.scale = 1.0f / std::sqrt(static_cast<float>(c.shape.head_dim));
  a.out = in->out.floats();
  a.out_stride = a.q_stride;
  a.scratch = in->scratch.data();
  return a;
}

void CheckPrefill(const AttentionKernels& kernels, const PrefillCase& c, uint64_t seed) {
  SCOPED_TRACE(Describe(c));
  ASSERT_LE(c.n_tokens, PrefillBlockTokens(c.shape.group, c.shape.head_dim));
  PrefillInputs in(c, seed);
  kernels.prefill(Params(c, &in));
  EXPECT_TRUE(in.out.SurroundingsAreNan() && in.scratch.SurroundingsAreNan());

  PrefillAttention reference = Params(c, &in);
  std::vector<float> want(in.q.size()), weight(in.q.size());
  reference.out = want.data();
  ReferencePrefillAttention(reference);
  Guarded absolute = in.v.Absolute();
  reference.v = absolute.data();
  reference.out = weight.data();
  ReferencePrefillAttention(reference);
  const double product = LargestProduct(c.shape, in.q, in.k, c.n_tokens * c.shape.group, c.n_rows);
  const double bound = RelativeBound(c.shape, c.n_rows, product, true);
  for (int64_t i = 0; i < in.q.size(); ++i) {
    ASSERT_NEAR(in.out.Get(i), want[i], bound * weight[i] + 1e-30)
        << "token " << i / (c.shape.group * c.shape.head_dim) << " head " << i / c.shape.head_dim % c.shape.group
        << " dim " << i % c.shape.head_dim;
  }
}

TEST_P(AttentionKernelsTest, PrefillAgreesWithReferenceForAllHeadDimsAndGroups) {
  uint64_t seed = 1;
  for (const int head_dim : {8, 10, 14, 16, 34, 62, 64, 80, 96, 112, 128, 256, 512}) {
    for (const int group : {1, 2, 3, 4, 7, 8, 12}) {
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

TEST_P(AttentionKernelsTest, PrefillAgreesWithReferenceForAwkwardLengths) {
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

TEST_P(AttentionKernelsTest, PrefillFollowsTheLambdaMask) {
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

// Positions beyond 32 bits of tokens, and a block at its largest size.
TEST_P(AttentionKernelsTest, PrefillAtVeryLargePositions) {
  const int64_t q_pos = (int64_t{1} << 33) + 5;
  for (const Shape& s : TypesOf({.head_dim = 64, .group = 4})) {
    CheckPrefill(kernels(), SplitCache(s, q_pos, 20, {.sink = 16, .window = 50}), 3);
    PrefillCase retrieval = {
        .shape = s, .n_tokens = 20, .q_pos = q_pos, .body_pos = q_pos - 100, .n_rows = 120, .mask = {}};
    CheckPrefill(kernels(), retrieval, 4);
  }
}

TEST_P(AttentionKernelsTest, PrefillOfALargestBlock) {
  for (const Shape& s : TypesOf({.head_dim = 128, .group = 4})) {
    CheckPrefill(kernels(), WholeCache(s, 150, PrefillBlockTokens(4, 128), {}), 5);
  }
}

TEST_P(AttentionKernelsTest, PrefillIsTokenByTokenDecode) {
  for (const Shape& s : TypesOf({.head_dim = 64, .group = 2})) {
    SCOPED_TRACE(Describe(s));
    const PrefillCase c = WholeCache(s, 0, 60, {});
    PrefillInputs in(c, 6);
    const PrefillAttention a = Params(c, &in);
    kernels().prefill(a);
    const double bound =
        2 * RelativeBound(s, c.n_rows, LargestProduct(s, in.q, in.k, c.n_tokens * s.group, c.n_rows), true);
    const Guarded absolute = in.v.Absolute();
    for (int64_t t = 0; t < c.n_tokens; ++t) {
      State state(s);
      DecodeAttention d;
      d.q = a.q + t * a.q_stride;
      d.k = a.k;
      d.v = a.v;
      d.n_rows = t + 1;
      d.group = s.group;
      d.head_dim = s.head_dim;
      d.kv_type = s.kv_type;
      d.math = s.math;
      d.scale = a.scale;
      d.max = state.max.floats();
      d.sum = state.sum.floats();
      d.acc = state.acc.floats();
      kernels().decode(d);
      for (int g = 0; g < s.group; ++g) {
        std::vector<float> out(s.head_dim);
        FinishSoftmax(d.sum[g], d.acc + g * s.head_dim, out.data(), s.head_dim);
        for (int i = 0; i < s.head_dim; ++i) {
          double largest = 0;
          for (int64_t r = 0; r <= t; ++r) largest = std::max<double>(largest, absolute.Get(r * s.head_dim + i));
          ASSERT_NEAR(out[i], a.out[t * a.out_stride + g * s.head_dim + i], bound * largest);
        }
      }
    }
  }
}

TEST_P(AttentionKernelsTest, PrefillDoesNotDependOnTheBlock) {
  const Shape s = {.head_dim = 64, .group = 4, .kv_type = DType::kF32, .math = AttentionMath::kF32};
  const LambdaMask mask = {.sink = 4, .window = 30};
  const PrefillCase whole = WholeCache(s, 0, 90, mask);
  PrefillInputs in(whole, 8);
  const PrefillAttention a = Params(whole, &in);
  kernels().prefill(a);
  std::vector<float> pieces(in.q.size());
  for (int64_t t = 0; t < 90; t += 7) {
    PrefillAttention part = a;
    part.q = a.q + t * a.q_stride;
    part.out = pieces.data() + t * a.out_stride;
    part.q_pos = t;
    part.n_tokens = std::min<int64_t>(7, 90 - t);
    part.n_rows = t + part.n_tokens;
    kernels().prefill(part);
  }
  for (int64_t i = 0; i < in.q.size(); ++i) ASSERT_NEAR(pieces[i], in.out.Get(i), 2e-5) << i;
}

TEST_P(AttentionKernelsTest, PrefillSurvivesExtremeScores) {
  for (const Shape& s : TypesOf({.head_dim = 16, .group = 2})) {
    SCOPED_TRACE(Describe(s));
    const PrefillCase c = WholeCache(s, 100, 60, {.sink = 8, .window = 40});
    PrefillInputs in(c, 9);
    for (int64_t i = 0; i < in.q.size(); ++i) in.q.Set(i, i % s.head_dim == 0 ? 100.0f : 0.0f);
    // Scores climb to 1e4 at the newest key, in steps of 100: every query copies the value of its own position.
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
        ASSERT_EQ(a.out[t * a.out_stride + i], in.v.Get((c.q_pos + t) * s.head_dim + i % s.head_dim)) << t;
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
