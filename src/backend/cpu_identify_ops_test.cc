// Operations for finding heads on the CPU against the references in double, with more tokens than one task takes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu_for_test.h"
#include "backend/heap_bytes_for_test.h"
#include "backend/identify_ops.h"
#include "base/rng.h"
#include "kernels/attention_backward.h"
#include "kernels/dense_test_util.h"
#include "kernels/reference/dense_reference.h"

namespace duo {
namespace {

using testing_util::kUnit;
using testing_util::Normal;
using Floats = std::vector<float>;

/// Outputs of full and of streaming attention for 601 tokens and five heads.
struct MixCase {
  explicit MixCase(Rng* rng)
      : full(Normal(rng, n_tokens * n_heads * width)), streaming(Normal(rng, n_tokens * n_heads * width)) {}
  HeadMix Mix() const {
    return {.n_tokens = n_tokens,
            .n_kv_heads = n_heads,
            .width = width,
            .host_gates = gates,
            .full = full.data(),
            .streaming = streaming.data()};
  }
  size_t HeadOf(size_t i) const { return i / static_cast<size_t>(width) % static_cast<size_t>(n_heads); }

  int64_t n_tokens = 601, width = 12;
  int n_heads = 5;
  std::vector<double> gates = {0.25, 0.75, 0.0, 1.0, 0.5};  // floats hold them
  Floats full, streaming;
};

// Two products and a sum.
TEST(CpuIdentifyOps, MixFollowsTheGates) {
  Rng rng(31);
  const MixCase c(&rng);
  for (const int n_threads : {1, 2, 3}) {
    const BackendPtr backend = CpuWith(n_threads);
    Floats out(c.full.size(), NAN);
    backend->identify_ops()->Mix(c.Mix(), out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      const double gate = c.gates[c.HeadOf(i)], full = c.full[i], streaming = c.streaming[i];
      ASSERT_NEAR(out[i], gate * full + (1 - gate) * streaming, 3 * kUnit * (std::fabs(full) + std::fabs(streaming)))
          << i;
    }
  }
}

// The gradient of a gate is a sum over many tokens in double, of products that may be floats.
TEST(CpuIdentifyOps, MixGradientIsThatOfStreamingAndAddsThatOfTheGates) {
  Rng rng(32);
  const MixCase c(&rng);
  const Floats d_out = Normal(&rng, std::ssize(c.full));
  for (const int n_threads : {1, 2, 3}) {
    std::vector<double> expected = {1, -2, 3, 0, 5}, magnitude = {1, 2, 3, 0, 5}, gradients = expected;
    const BackendPtr backend = CpuWith(n_threads);
    Floats d_streaming = d_out;
    backend->identify_ops()->MixGradient(c.Mix(), d_streaming.data(), gradients);
    for (size_t i = 0; i < d_out.size(); ++i) {
      const double gate = c.gates[c.HeadOf(i)], d = d_out[i], full = c.full[i], streaming = c.streaming[i];
      ASSERT_NEAR(d_streaming[i], (1 - gate) * d, 3 * kUnit * std::fabs(d)) << i;
      expected[c.HeadOf(i)] += d * (full - streaming);
      magnitude[c.HeadOf(i)] += std::fabs(d) * (std::fabs(full) + std::fabs(streaming));
    }
    for (size_t head = 0; head < expected.size(); ++head) {
      const double bound = static_cast<double>(c.width + 4) * kUnit * magnitude[head];
      EXPECT_NEAR(gradients[head], expected[head], bound) << head;
    }
  }
}

/// Inputs of the gradient of attention of several heads. The outputs are NaN.
struct AttentionCase {
  AttentionCase(int64_t tokens, const LambdaMask& lambda, Rng* rng) : n_tokens(tokens), mask(lambda) {
    q = Normal(rng, n_tokens * n_heads * group * head_dim);
    d_out = Normal(rng, std::ssize(q));
    k = Normal(rng, n_tokens * n_heads * head_dim);
    v = Normal(rng, std::ssize(k));
    dq.assign(q.size(), NAN), dk.assign(k.size(), NAN), dv.assign(k.size(), NAN);
  }
  AttentionGradient Task() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .d_out = d_out.data(),
            .n_tokens = n_tokens,
            .n_kv_heads = n_heads,
            .group = group,
            .head_dim = head_dim,
            .scale = 0.25f,
            .mask = mask,
            .dq = dq.data(),
            .dk = dk.data(),
            .dv = dv.data()};
  }
  void RunReference() {
    for (int64_t head = 0; head < n_heads; ++head) {
      const int64_t at_q = head * group * head_dim, at_k = head * head_dim;
      reference::AttentionBackwardRows({.q = q.data() + at_q,
                                        .k = k.data() + at_k,
                                        .v = v.data() + at_k,
                                        .d_out = d_out.data() + at_q,
                                        .q_stride = int64_t{n_heads} * group * head_dim,
                                        .kv_stride = int64_t{n_heads} * head_dim,
                                        .n_tokens = n_tokens,
                                        .group = group,
                                        .head_dim = head_dim,
                                        .mask = mask,
                                        .scale = 0.25f,
                                        .dq = dq.data() + at_q,
                                        .dk = dk.data() + at_k,
                                        .dv = dv.data() + at_k});
    }
  }

  int64_t n_tokens;
  int n_heads = 5, group = 2, head_dim = 10;
  LambdaMask mask;
  Floats q, k, v, d_out, dq, dk, dv;
};

// The tolerance of src/kernels/backward_test.cc.
void ExpectNear(const Floats& got, const Floats& expected, const char* what) {
  float largest = 0;
  for (const float x : expected) largest = std::max(largest, std::fabs(x));
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-5f * largest) << what << " " << i;
}

TEST(CpuIdentifyOps, AttentionOfSeveralHeadsAgreesWithReference) {
  for (const LambdaMask& mask : {LambdaMask{}, LambdaMask{.sink = 5, .window = 37}}) {
    Rng rng(33);
    AttentionCase expected(203, mask, &rng);
    expected.RunReference();
    for (const int n_threads : {1, 2, 3}) {
      AttentionCase got = expected;
      got.dq.assign(got.dq.size(), NAN), got.dk.assign(got.dk.size(), NAN), got.dv = got.dk;
      const BackendPtr backend = CpuWith(n_threads);
      ASSERT_TRUE(backend->identify_ops()->Attention(got.Task()).ok());
      ExpectNear(got.dq, expected.dq, "dq");
      ExpectNear(got.dk, expected.dk, "dk");
      ExpectNear(got.dv, expected.dv, "dv");
    }
  }
}

// A lower limit shows that every thread has its own part of the scratch.
TEST(CpuIdentifyOps, AttentionTakesAtMostTheBoundOfScratch) {
  if (!testing_util::HeapBytesWork()) GTEST_SKIP() << "SKIPPED: the heap does not tell how much it holds";
  Rng rng(34);
  AttentionCase c(203, {}, &rng);
  const GradientBounds bounds{
      .n_tokens = c.n_tokens, .widest_output = 1, .group = c.group, .head_dim = c.head_dim, .mask = c.mask};
  const size_t floats = AttentionBackwardScratchFloats(c.n_tokens, c.group, c.head_dim, c.mask);
  for (const int n_threads : {1, 2, 3}) {
    const BackendPtr backend = CpuWith(n_threads);
    const size_t before = testing_util::HeapBytes();
    ASSERT_TRUE(backend->identify_ops()->Attention(c.Task()).ok());
    const size_t taken = testing_util::HeapBytes() - before;
    EXPECT_LE(taken, backend->identify_ops()->MaxScratchBytes(bounds));
    EXPECT_GE(taken, static_cast<size_t>(n_threads) * floats * sizeof(float));
  }
}

// (n + 4) u |dy| |w| with the lengths of vectors, for sums of floats in any order. The second task adds to the first.
TEST(CpuIdentifyOps, LinearAddsTheGradientsOfItsTasks) {
  Rng rng(35);
  const int64_t n_tokens = 37, n_in = 131, n_out[] = {70, 203};
  const auto length = [](const float* x, int64_t n, int64_t stride) {
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += std::pow(static_cast<double>(x[i * stride]), 2);
    return std::sqrt(squares);
  };
  for (const int n_threads : {1, 2, 3}) {
    Floats expected(static_cast<size_t>(n_tokens * n_in), 0.0f), bound = expected, dx(expected.size(), NAN);
    Floats w[2], dy[2];
    std::vector<LinearGradient> tasks;
    for (size_t task = 0; task < 2; ++task) {
      const int64_t n = n_out[task];
      w[task] = Normal(&rng, n * n_in), dy[task] = Normal(&rng, n_tokens * n);
      tasks.push_back({{.data = w[task].data(), .dtype = DType::kF32, .n_out = n, .n_in = n_in}, dy[task].data()});
      reference::GemmAll({.x = dy[task].data(),
                          .x_type = DType::kF32,
                          .n_tokens = n_tokens,
                          .n_in = n,
                          .w = w[task].data(),
                          .w_type = DType::kF32,
                          .w_layout = WeightLayout::kInOut,
                          .n_out = n_in,
                          .out = expected.data(),
                          .out_stride = n_in,
                          .accumulate = true});
      for (size_t i = 0; i < bound.size(); ++i) {
        const auto t = static_cast<int64_t>(i) / n_in, column = static_cast<int64_t>(i) % n_in;
        bound[i] += static_cast<float>(static_cast<double>(n + 4) * kUnit * length(dy[task].data() + t * n, n, 1) *
                                       length(w[task].data() + column, n, n_in));
      }
    }
    const BackendPtr backend = CpuWith(n_threads);
    ASSERT_TRUE(backend->identify_ops()->Linear(ComputeType::kF32, n_tokens, tasks, dx.data()).ok());
    for (size_t i = 0; i < dx.size(); ++i) ASSERT_NEAR(dx[i], expected[i], bound[i]) << i;
  }
}

}  // namespace
}  // namespace duo
