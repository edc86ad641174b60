// Gradients against central differences of their forward in double, and the fast attention gradient against the
// reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/attention_backward.h"
#include "kernels/attention_test_util.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/dense.h"
#include "kernels/dense_backward.h"
#include "kernels/dense_test_util.h"
#include "kernels/key_weights.h"
#include "kernels/reference/dense_reference.h"
#include "kernels/seen_keys.h"

namespace duo {
namespace {

using testing_util::Normal;

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

const DenseKernels& kPlain = DenseKernelsFor(Isa::kPortable);

double Dot(const Doubles& a, const Floats& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * double{b[i]};
  return sum;
}

// Expects every component of `gradient` to be that of dy . forward(x). Central differences with step h err by O(h^2).
void ExpectGradient(const std::function<Doubles(const Doubles&)>& forward, const Floats& x, const Floats& dy,
                    const Floats& gradient, const char* what) {
  constexpr double kStep = 1e-4;
  double largest = 0;
  for (const float g : gradient) largest = std::max(largest, std::fabs(double{g}));
  Doubles at(x.begin(), x.end());
  for (size_t i = 0; i < x.size(); ++i) {
    at[i] = x[i] + kStep;
    const double up = Dot(forward(at), dy);
    at[i] = x[i] - kStep;
    const double down = Dot(forward(at), dy);
    at[i] = x[i];
    ASSERT_NEAR(gradient[i], (up - down) / (2 * kStep), 1e-5 * largest + 1e-6) << what << " " << i;
  }
}

TEST(RmsNormBackward, IsTheDerivative) {
  Rng rng(1);
  for (const int64_t dim : {1, 2, 7, 64}) {
    const Floats x = Normal(&rng, 3 * dim), weight = Normal(&rng, dim), dy = Normal(&rng, 3 * dim);
    Floats dx = dy;
    RunRmsNormBackward({.x = x.data(),
                        .weight = weight.data(),
                        .eps = 0.1f,
                        .n_rows = 3,
                        .dim = dim,
                        .dy = dx.data(),
                        .dx = dx.data()});
    const auto forward = [&](const Doubles& at) {
      Doubles y(at.size());
      for (int64_t row = 0; row < 3; ++row) {
        const double* from = at.data() + row * dim;
        double squares = 0;
        for (int64_t i = 0; i < dim; ++i) squares += from[i] * from[i];
        const double r = 1 / std::sqrt(squares / dim + double{0.1f});
        for (int64_t i = 0; i < dim; ++i) y[row * dim + i] = from[i] * r * double{weight[i]};
      }
      return y;
    };
    ExpectGradient(forward, x, dy, dx, "x");
  }
}

TEST(SwiGluBackward, IsTheDerivative) {
  Rng rng(2);
  const Floats gate = Normal(&rng, 50), up = Normal(&rng, 50), dh = Normal(&rng, 50);
  Floats dgate = gate, dup = up;
  kPlain.swiglu_backward({.dh = dh.data(), .gate = dgate.data(), .up = dup.data(), .n = 50});
  const auto silu = [](double g) { return g / (1 + std::exp(-g)); };
  const auto of_gate = [&](const Doubles& at) {
    Doubles h(at.size());
    for (size_t i = 0; i < h.size(); ++i) h[i] = silu(at[i]) * double{up[i]};
    return h;
  };
  const auto of_up = [&](const Doubles& at) {
    Doubles h(at.size());
    for (size_t i = 0; i < h.size(); ++i) h[i] = silu(double{gate[i]}) * at[i];
    return h;
  };
  ExpectGradient(of_gate, gate, dh, dgate, "gate");
  ExpectGradient(of_up, up, dh, dup, "up");
}

TEST(SwiGluBackward, OfFarGatesIsFinite) {
  Floats gate = {-200.0f, 200.0f, -80.0f, 0.0f}, up = {1, 1, 1, 1};
  const Floats dh = {1, 1, 1, 1};
  kPlain.swiglu_backward({.dh = dh.data(), .gate = gate.data(), .up = up.data(), .n = 4});
  EXPECT_EQ(gate[0], 0.0f);
  EXPECT_EQ(gate[1], 1.0f);
  EXPECT_NEAR(gate[2], 0.0f, 1e-30);
  EXPECT_EQ(gate[3], 0.5f);
  EXPECT_EQ(up[1], 200.0f);
}

// Every level agrees with the formulas for lengths around the vector length, and touches nothing past the end.
TEST(ElementwiseBackward, LevelsAgree) {
  Rng rng(8);
  for (const Isa isa : attention_test::LevelsOfThisCpu()) {
    const DenseKernels& kernels = DenseKernelsFor(isa);
    for (const int64_t n : {1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 100}) {
      const Floats dh = Normal(&rng, n);
      Floats a = Normal(&rng, n + 1), b = Normal(&rng, n + 1);
      if (n > 2) a[1] = -INFINITY;  // for softmax: a key that is not seen
      Floats scores = a, dp = b;
      kernels.softmax_backward({.scores = scores.data(), .dp = dp.data(), .n = n, .scale = 0.5f});
      double max = -INFINITY, sum = 0, mean = 0;
      for (int64_t i = 0; i < n; ++i) max = std::max(max, double{a[i]});
      for (int64_t i = 0; i < n; ++i) sum += std::exp(double{a[i]} - max);
      const auto weight = [&](int64_t i) { return std::exp(double{a[i]} - max) / sum; };
      for (int64_t i = 0; i < n; ++i) mean += weight(i) * double{b[i]};
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_NEAR(scores[i], weight(i), 1e-6) << IsaName(isa) << " " << n << " " << i;
        ASSERT_NEAR(dp[i], 0.5 * weight(i) * (double{b[i]} - mean), 2e-6) << IsaName(isa) << " " << n << " " << i;
      }
      EXPECT_EQ(scores.back(), a.back());
      EXPECT_EQ(dp.back(), b.back());
      a[n > 2 ? 1 : 0] = 0.25f;
      Floats gate = a, up = b, gate0 = a, up0 = b;
      kernels.swiglu_backward({.dh = dh.data(), .gate = gate.data(), .up = up.data(), .n = n});
      kPlain.swiglu_backward({.dh = dh.data(), .gate = gate0.data(), .up = up0.data(), .n = n});
      for (int64_t i = 0; i <= n; ++i) {
        ASSERT_NEAR(gate[i], gate0[i], 2e-6) << IsaName(isa) << " " << n << " " << i;
        ASSERT_NEAR(up[i], up0[i], 2e-6) << IsaName(isa) << " " << n << " " << i;
      }
    }
  }
}

// The gradient of a rotation is the rotation back, including its amplitude. The trainer relies on this.
TEST(RopeBackward, IsRopeWithTheSineNegated) {
  Rng rng(3);
  const int dim = 8;
  const Floats x = Normal(&rng, dim), dy = Normal(&rng, dim), cos = Normal(&rng, dim / 2), sin = Normal(&rng, dim / 2);
  Floats minus_sin = sin, dx = dy;
  for (float& s : minus_sin) s = -s;
  reference::RopeTokens({.x = dx.data(),
                         .x_stride = dim,
                         .n_tokens = 1,
                         .n_heads = 1,
                         .head_dim = dim,
                         .cos = cos.data(),
                         .sin = minus_sin.data()});
  const auto forward = [&](const Doubles& at) {
    Doubles y(at.size());
    for (size_t d = 0; d < dim / 2; ++d) {
      y[d] = at[d] * double{cos[d]} - at[d + dim / 2] * double{sin[d]};
      y[d + dim / 2] = at[d + dim / 2] * double{cos[d]} + at[d] * double{sin[d]};
    }
    return y;
  };
  ExpectGradient(forward, x, dy, dx, "x");
}

TEST(MixByGate, AndItsDerivatives) {
  Rng rng(4);
  const GateRows rows{.n_tokens = 3, .width = 4, .stride = 6, .gate = 0.3f};
  const Floats full = Normal(&rng, 18), streaming = Normal(&rng, 18), d_out = Normal(&rng, 18);
  Floats out(18, 7.0f), d_streaming = d_out;
  MixByGate(rows, full.data(), streaming.data(), out.data());
  const double d_gate = MixByGateBackward(rows, full.data(), streaming.data(), d_streaming.data());
  double expected = 0;
  for (size_t i = 0; i < 18; ++i) {
    if (i % 6 >= 4) {  // belongs to another head
      EXPECT_EQ(out[i], 7.0f);
      EXPECT_EQ(d_streaming[i], d_out[i]);
      continue;
    }
    EXPECT_NEAR(out[i], 0.3 * double{full[i]} + 0.7 * double{streaming[i]}, 1e-6);
    EXPECT_NEAR(d_streaming[i], 0.7 * double{d_out[i]}, 1e-6);
    expected += double{d_out[i]} * (double{full[i]} - double{streaming[i]});
  }
  EXPECT_NEAR(d_gate, expected, 1e-5);
}

struct AttentionCase {
  int64_t n_tokens;
  int group;
  int head_dim;
  LambdaMask mask;
  int n_kv_heads = 2;  // the second one's data lies between the first one's rows
};

// Inputs and outputs of the first of n_kv_heads heads; the other elements of the outputs stay NaN.
struct AttentionData {
  AttentionData(const AttentionCase& c, uint64_t seed) : shape(c) {
    Rng rng(seed);
    const int64_t q_size = c.n_tokens * c.n_kv_heads * c.group * c.head_dim;
    const int64_t kv_size = c.n_tokens * c.n_kv_heads * c.head_dim;
    q = Normal(&rng, q_size), d_out = Normal(&rng, q_size), k = Normal(&rng, kv_size), v = Normal(&rng, kv_size);
    dq.assign(q.size(), std::numeric_limits<float>::quiet_NaN());
    dk.assign(k.size(), std::numeric_limits<float>::quiet_NaN());
    dv = dk;
    scratch.resize(AttentionBackwardScratchFloats(c.n_tokens, c.group, c.head_dim, c.mask) + 1);
    scratch.back() = 42.0f;
  }
  AttentionBackward Params() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .d_out = d_out.data(),
            .q_stride = int64_t{shape.n_kv_heads} * shape.group * shape.head_dim,
            .kv_stride = int64_t{shape.n_kv_heads} * shape.head_dim,
            .n_tokens = shape.n_tokens,
            .group = shape.group,
            .head_dim = shape.head_dim,
            .mask = shape.mask,
            .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
            .dq = dq.data(),
            .dk = dk.data(),
            .dv = dv.data(),
            .scratch = scratch.data()};
  }
  AttentionCase shape;
  Floats q, k, v, d_out, dq, dk, dv, scratch;
};

// The reference gradient itself, for every input of a small case.
TEST(AttentionBackward, ReferenceIsTheDerivative) {
  for (const LambdaMask mask : {LambdaMask{}, LambdaMask{.sink = 2, .window = 3}}) {
    AttentionData data({.n_tokens = 9, .group = 2, .head_dim = 4, .mask = mask, .n_kv_heads = 1}, 5);
    const AttentionBackward a = data.Params();
    reference::AttentionBackwardRows(a);
    const auto forward = [&](const Doubles& q, const Doubles& k, const Doubles& v) {
      Doubles out(q.size(), 0.0);
      for (size_t row = 0; row < q.size() / 4; ++row) {  // token row / 2
        Doubles p(9, 0.0);
        double sum = 0;
        for (size_t j = 0; j < 9; ++j) {
          if (!Sees(mask, static_cast<int64_t>(row / 2), static_cast<int64_t>(j))) continue;
          double score = 0;
          for (size_t d = 0; d < 4; ++d) score += q[row * 4 + d] * k[j * 4 + d];
          sum += p[j] = std::exp(double{a.scale} * score);
        }
        for (size_t j = 0; j < 9; ++j) {
          for (size_t d = 0; d < 4; ++d) out[row * 4 + d] += p[j] / sum * v[j * 4 + d];
        }
      }
      return out;
    };
    const Doubles q(data.q.begin(), data.q.end()), k(data.k.begin(), data.k.end()), v(data.v.begin(), data.v.end());
    ExpectGradient([&](const Doubles& at) { return forward(at, k, v); }, data.q, data.d_out, data.dq, "q");
    ExpectGradient([&](const Doubles& at) { return forward(q, at, v); }, data.k, data.d_out, data.dk, "k");
    ExpectGradient([&](const Doubles& at) { return forward(q, k, at); }, data.v, data.d_out, data.dv, "v");
  }
}

TEST(SeenKeys, AreAllThatABlockSeesOnce) {
  for (const LambdaMask mask : {LambdaMask{}, LambdaMask{.sink = 0, .window = 1}, LambdaMask{.sink = 5, .window = 3},
                                LambdaMask{.sink = 100, .window = 2}, LambdaMask{.sink = 3, .window = 20}}) {
    for (int64_t begin = 0; begin < 30; ++begin) {
      const int64_t end = std::min<int64_t>(30, begin + 4);
      const SeenKeys keys = KeysSeenBy(mask, begin, end);
      EXPECT_LE(keys.count(), MostSeenKeys(mask, 30, 4));
      std::vector<int> times(30, 0);
      for (int64_t row = 0; row < keys.count(); ++row) ++times.at(keys.pos(row));
      for (int64_t key = 0; key < 30; ++key) {
        EXPECT_LE(times[key], 1);
        for (int64_t i = begin; i < end; ++i) {
          EXPECT_TRUE(!Sees(mask, i, key) || times[key] == 1) << key << " seen by " << i;
        }
      }
    }
  }
}

void ExpectNear(const Floats& got, const Floats& expected, const char* what) {
  float largest = 0;
  for (const float x : expected) largest = std::max(largest, std::isnan(x) ? 0.0f : std::fabs(x));
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::isnan(got[i]), std::isnan(expected[i])) << what << " " << i;  // NaN in the other head's elements
    if (std::isnan(got[i])) continue;
    ASSERT_NEAR(got[i], expected[i], 2e-5f * largest) << what << " " << i;
  }
}

TEST(AttentionBackward, AgreesWithReferenceForAwkwardShapesAndMasks) {
  uint64_t seed = 6;
  for (const int64_t n_tokens : {1, 2, 31, 64, 65, 200, 333}) {
    for (const int group : {1, 3, 4, 300}) {
      for (const LambdaMask mask : {LambdaMask{}, LambdaMask{.sink = 0, .window = 1},
                                    LambdaMask{.sink = 5, .window = 17}, LambdaMask{.sink = 100, .window = 3},
                                    LambdaMask{.sink = 1000, .window = 1}, LambdaMask{.sink = 4, .window = 150}}) {
        if (group == 300 && n_tokens > 64) continue;
        const AttentionCase c{.n_tokens = n_tokens, .group = group, .head_dim = group == 4 ? 32 : 10, .mask = mask};
        SCOPED_TRACE(std::to_string(n_tokens) + " tokens, group " + std::to_string(group) + ", sink " +
                     std::to_string(mask.sink) + ", window " + std::to_string(mask.window));
        AttentionData plain(c, seed);
        reference::AttentionBackwardRows(plain.Params());
        for (const Isa isa : attention_test::LevelsOfThisCpu()) {
          AttentionData fast(c, seed);
          RunAttentionBackward(fast.Params(), DenseKernelsFor(isa));
          ExpectNear(fast.dq, plain.dq, IsaName(isa));
          ExpectNear(fast.dk, plain.dk, IsaName(isa));
          ExpectNear(fast.dv, plain.dv, IsaName(isa));
          ASSERT_EQ(fast.scratch.back(), 42.0f);
          if (HasFatalFailure()) return;
        }
        ++seed;
      }
    }
  }
}

TEST(KeyWeights, AgreeWithReference) {
  Rng rng(7);
  for (const int64_t n_keys : {1, 5, 512, 513, 1100}) {
    for (const int64_t n_tokens : {1, 3, 130}) {
      for (const DType type : {DType::kF32, DType::kBF16}) {
        const int group = 3, dim = 16;
        const Floats q = Normal(&rng, n_tokens * (group * dim + 5)), k = Normal(&rng, n_keys * dim);
        std::vector<bf16> narrow(k.size());
        for (size_t i = 0; i < k.size(); ++i) narrow[i] = ToBf16(k[i]);
        Floats lse(n_tokens * (group + 1));
        for (float& x : lse) x = 6 + rng.Uniform();
        Floats scratch(KeyWeightsScratchFloats(dim) + 1, 42.0f);
        KeyWeights p{.q = q.data(), .q_stride = group * dim + 5, .n_tokens = n_tokens, .group = group, .head_dim = dim};
        p.k = type == DType::kF32 ? static_cast<const void*>(k.data()) : narrow.data();
        p.key_type = type, p.n_keys = n_keys, p.scale = 0.25f, p.lse = lse.data(), p.lse_stride = group + 1;
        p.scratch = scratch.data();
        const double want = reference::LargestKeyWeight(p);
        EXPECT_NEAR(LargestKeyWeight(p, DenseKernelsFor(DetectIsa())), want, 1e-5 * want);
        EXPECT_EQ(scratch.back(), 42.0f);
      }
    }
  }
}

TEST(AttentionBackward, ScratchOfAStreamingHeadDoesNotGrowWithTheSequence) {
  const LambdaMask mask{.sink = 128, .window = 256};
  EXPECT_EQ(AttentionBackwardScratchFloats(4096, 4, 64, mask), AttentionBackwardScratchFloats(1 << 20, 4, 64, mask));
}

}  // namespace
}  // namespace duo
