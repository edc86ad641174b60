#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/openmp_for_test.h"
#include "kernels/cpu/dense/ceilings.h"
#include "kernels/cpu/dense/gemm.h"
#include "kernels/dense_test_util.h"
#include "kernels/reference/dense_reference.h"

// Tolerances: docs/numerics.md, section "Dense".
namespace duo {
namespace {

using testing_util::Guarded;
using testing_util::kUnit;

class GemmTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > DetectIsa()) GTEST_SKIP() << "SKIPPED: this CPU lacks " << IsaName(GetParam());
  }
  Rng rng{11};
};

INSTANTIATE_TEST_SUITE_P(Levels, GemmTest,
                         testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16),
                         [](const auto& param) { return std::string(IsaName(param.param)); });

struct Shape {
  int64_t n_tokens, n_out, n_in;
  DType x_type = DType::kF32, w_type = DType::kF32;
  bool bias = false, accumulate = false;
  WeightLayout layout = WeightLayout::kOutIn;
};

// The weights' values in the product. When x is bf16 they are rounded to bf16, because products are then bf16 x bf16
// or, below Isa::kAvx512Bf16, exactly the same products as floats.
std::vector<float> WeightsAsMultiplied(Guarded& w, const Shape& s, Isa isa) {
  std::vector<float> out(s.n_out * s.n_in);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = reference::Load(w.data(), s.w_type, i);
    if (s.x_type == DType::kBF16 && isa >= Isa::kAvx512Bf16) out[i] = ToFloat(ToBf16(out[i]));
  }
  return out;
}

// [n_out, n_in] whatever the layout.
std::vector<float> ByOutput(const std::vector<float>& w, const Shape& s) {
  if (s.layout == WeightLayout::kOutIn) return w;
  std::vector<float> out(w.size());
  for (int64_t i = 0; i < s.n_in; ++i) {
    for (int64_t o = 0; o < s.n_out; ++o) {
      out[o * s.n_in + i] = w[i * s.n_out + o];
    }
  }
  return out;
}

std::vector<double> RowNorms(const void* data, DType type, int64_t n_rows, int64_t n) {
  std::vector<double> norms;
  for (int64_t r = 0; r < n_rows; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += std::pow(reference::Load(data, type, r * n + i), 2);
    norms.push_back(std::sqrt(squares));
  }
  return norms;
}

// (n_in + 4) u |x| |w|: any order of float additions; the norms' product bounds sum |x w|.
void ExpectAgrees(GemmRunner& runner, Isa isa, const Shape& s, Rng& rng) {
  const int64_t stride = s.n_out + 3;
  Guarded x(s.n_tokens * s.n_in, s.x_type), w(s.n_out * s.n_in, s.w_type), bias(s.n_out, DType::kF32);
  Guarded out(s.n_tokens * stride, DType::kF32);
  x.Fill(rng), w.Fill(rng), bias.Fill(rng);
  if (s.accumulate) out.Fill(rng);  // otherwise out is NaN, and none of it may survive
  const std::vector<float> before = out.Floats();
  Gemm gemm{.x = x.data(), .x_type = s.x_type, .n_tokens = s.n_tokens, .n_in = s.n_in};
  gemm.w = w.data(), gemm.w_type = s.w_type, gemm.w_layout = s.layout, gemm.n_out = s.n_out,
  gemm.bias = s.bias ? bias.f32() : nullptr;
  gemm.out = out.f32(), gemm.out_stride = stride, gemm.accumulate = s.accumulate;

  const std::vector<float> weights = WeightsAsMultiplied(w, s, isa);
  const std::vector<double> x_norms = RowNorms(x.data(), s.x_type, s.n_tokens, s.n_in);
  const std::vector<double> w_norms = RowNorms(ByOutput(weights, s).data(), DType::kF32, s.n_out, s.n_in);
  std::vector<float> expected = before;
  Gemm oracle = gemm;
  oracle.w = weights.data(), oracle.w_type = DType::kF32, oracle.out = expected.data();
  reference::GemmAll(oracle);
  const Status status = runner.Run(gemm);
  ASSERT_TRUE(status.ok()) << status.message();

  for (int64_t t = 0; t < s.n_tokens; ++t) {
    for (int64_t o = 0; o < stride; ++o) {
      const int64_t at = t * stride + o;
      const float got = out.f32()[at];
      if (o >= s.n_out) {
        ASSERT_TRUE(std::isnan(got) || got == before[at]) << "between rows";
        continue;
      }
      double sum = x_norms[t] * w_norms[o];
      if (s.bias) sum += std::fabs(bias.f32()[o]);
      if (s.accumulate) sum += std::fabs(before[at]);
      ASSERT_NEAR(got, expected[at], (s.n_in + 4.0) * kUnit * sum)
          << DTypeName(s.x_type) << " x " << DTypeName(s.w_type) << " " << s.n_tokens << "x" << s.n_out << "x" << s.n_in
          << " bias " << s.bias << " accumulate " << s.accumulate << " token " << t << " output " << o;
    }
  }
  ASSERT_TRUE(out.GuardsIntact());
}

TEST_P(GemmTest, AgreesWithReferenceForEveryCombination) {
  GemmRunner runner(1, GetParam());
  for (const DType x_type : {DType::kF32, DType::kBF16}) {
    for (const DType w_type : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (int variant = 0; variant < 8; ++variant) {
        for (const int64_t n_tokens : {1, 2, 5, 16, 33, 64, 70}) {
          const int64_t n_out = 1 + rng.Below(90), n_in = 1 + rng.Below(150);
          ExpectAgrees(runner, GetParam(),
                       {n_tokens, n_out, n_in, x_type, w_type, (variant & 1) != 0, (variant & 2) != 0,
                        (variant & 4) != 0 ? WeightLayout::kInOut : WeightLayout::kOutIn},
                       rng);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Runs more shapes than the runner keeps, then the first ones again.
TEST_P(GemmTest, EveryNumberOfTokensAndEvictedShapes) {
  GemmRunner runner(1, GetParam());
  for (int round = 0; round < 2; ++round) {
    for (int64_t n_tokens = 1; n_tokens <= 70; ++n_tokens) {
      ExpectAgrees(runner, GetParam(), {n_tokens, 33, 65, DType::kBF16, DType::kBF16, true, false}, rng);
      if (HasFatalFailure()) return;
    }
  }
}

// A row is 256 KiB of floats, so a panel holds the minimum of 64 rows. Covers several panels, then several blocks of
// tokens.
TEST_P(GemmTest, ConvertedPanelsAndBlocks) {
  GemmRunner runner(2, GetParam());
  ExpectAgrees(runner, GetParam(), {2, 130, 65536, DType::kF32, DType::kF16, true, true}, rng);
  ExpectAgrees(runner, GetParam(), {70, 3, 65536, DType::kBF16, DType::kBF16, true, false}, rng);
  ExpectAgrees(runner, GetParam(), {2, 140, 65536, DType::kBF16, DType::kF16, false, false}, rng);
  ExpectAgrees(runner, GetParam(), {2, 130, 65536, DType::kF32, DType::kF16, true, true, WeightLayout::kInOut}, rng);
  EXPECT_GT(runner.scratch_bytes(), 0u);
  EXPECT_LE(
      runner.scratch_bytes(),
      std::max(GemmRunner::MaxScratchBytes(GetParam(), 2, 65536, DType::kBF16, DType::kF16, WeightLayout::kInOut),
               GemmRunner::MaxScratchBytes(GetParam(), 2, 65536, DType::kF32, DType::kF16, WeightLayout::kInOut)));
}

// With OMP_MAX_ACTIVE_LEVELS=0 or OMP_THREAD_LIMIT=1, or inside a caller's own parallel region, the runtime gives
// smaller teams than requested. A library that had cut its work for the larger team left most of the output unwritten.
TEST_P(GemmTest, DoesNotDependOnTheTeamOfTheRuntime) {
  const OpenMpWithoutTeams limit;
  GemmRunner runner(4, GetParam());
  for (const DType x_type : {DType::kF32, DType::kBF16}) {
    ExpectAgrees(runner, GetParam(), {70, 300, 130, x_type, DType::kBF16, true, true}, rng);
    ExpectAgrees(runner, GetParam(), {512, 200, 64, x_type, x_type, true, false}, rng);
  }
}

TEST_P(GemmTest, InsideTheCallersParallelRegion) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "SKIPPED: ThreadSanitizer cannot see how OpenMP's threads meet";
#endif
  InOpenMpRegion(3, [](int thread) {
    Rng own(thread);
    GemmRunner runner(4, GetParam());
    ExpectAgrees(runner, GetParam(), {70, 300, 130, DType::kF32, DType::kF32, true, true}, own);
  });
}

TEST(Gemm, LeavesTheCallersNumberOfThreadsAlone) {
  SetOpenMpThreads(3);
  GemmRunner runner(2, DetectIsa());
  float x = 2.0f, w = 3.0f, out = 0.0f;
  Gemm gemm{.x = &x, .x_type = DType::kF32, .n_tokens = 1, .n_in = 1, .w = &w, .w_type = DType::kF32, .n_out = 1};
  gemm.out = &out, gemm.out_stride = 1;
  ASSERT_TRUE(runner.Run(gemm).ok());
  EXPECT_EQ(out, 6.0f);
  EXPECT_EQ(OpenMpThreads(), 3);
}

// Covers every way to cut a product: few and many outputs and tokens for several threads, with remainders in both.
TEST_P(GemmTest, BlocksOfTokensAndOutputs) {
  for (const int n_threads : {1, 3, 8}) {
    GemmRunner runner(n_threads, GetParam());
    for (const int64_t n_tokens : {17, 129, 200}) {
      for (const int64_t n_out : {1, 63, 64, 65, 1100, 2500}) {
        ExpectAgrees(runner, GetParam(), {n_tokens, n_out, 20, DType::kBF16, DType::kBF16, true, true}, rng);
        ExpectAgrees(runner, GetParam(),
                     {n_tokens, n_out, 20, DType::kF32, DType::kF32, false, false, WeightLayout::kInOut}, rng);
        ExpectAgrees(runner, GetParam(),
                     {n_tokens, n_out, 20, DType::kF32, DType::kF16, false, true, WeightLayout::kInOut}, rng);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Gemm, NothingToDoIsOk) {
  GemmRunner runner(1, DetectIsa());
  float x = 1.0f, w = 1.0f, out = 5.0f;
  Gemm gemm{.x = &x, .x_type = DType::kF32, .n_tokens = 0, .n_in = 1, .w = &w, .w_type = DType::kF32, .n_out = 1};
  gemm.out = &out, gemm.out_stride = 1;
  EXPECT_TRUE(runner.Run(gemm).ok());
  EXPECT_EQ(out, 5.0f);
}

TEST(GemmDeathTest, HalfActivationsAreABug) {
  GemmRunner runner(1, DetectIsa());
  Gemm gemm{.x_type = DType::kF16, .n_tokens = 1, .n_in = 1, .n_out = 1, .out_stride = 1};
  EXPECT_DEATH((void)runner.Run(gemm), "activations");
}

TEST(Ceilings, AreMeasured) {
  const Result<ReadBandwidth> read = ReadBandwidth::Create(DetectIsa(), 1);
  ASSERT_TRUE(read.ok()) << read.status().message();
  const double gb_s = read->Measure();
  EXPECT_GT(gb_s, 0.0);
  EXPECT_TRUE(std::isfinite(gb_s));
  const auto begin = Clock::now();
  const Result<double> gemm = MeasureGemmGflops(DetectIsa(), DType::kBF16, 1);
  ASSERT_TRUE(gemm.ok()) << gemm.status().message();
  EXPECT_TRUE(std::isfinite(*gemm));
  // Eight runs of four products, which took no longer than the call.
  EXPECT_GT(*gemm, 0.5 * 8 * 4 * 2 * 512 * 4096 * 1024 * 1e-9 / SecondsSince(begin));
}

}  // namespace
}  // namespace duo
