// Tests of the plan of a benchmark and of a run that is stopped. tests/demo_bench_plan_test.py tests the report.
#include "eval/bench.h"

#include <gtest/gtest.h>

#include "base/data_for_test.h"

namespace duo {
namespace {

TEST(BenchTests, SessionsHoldTheirDepthAndAllTokensOfATest) {
  // Every 8 decode steps that count have one before and one after them that do not.
  EXPECT_EQ((BenchTests{.depths = {}, .decode = 16, .prefill = 0, .repeat = 3}.Longest(100)), 100 + 3 * (16 + 2 * 2));
  EXPECT_EQ((BenchTests{.depths = {}, .decode = 17, .prefill = 0, .repeat = 1}.Longest(0)), 17 + 2 * 3);
  EXPECT_EQ((BenchTests{.depths = {}, .decode = 0, .prefill = 512}.Longest(100)), 612);
}

TEST(BenchTests, OnlyPrefillInADeepCacheUsesASnapshot) {
  const BenchTests tests{.depths = {}, .decode = 0, .prefill = 512};
  EXPECT_FALSE(tests.UsesSnapshot(1023));
  EXPECT_TRUE(tests.UsesSnapshot(1024));
  EXPECT_FALSE((BenchTests{.depths = {}, .decode = 16, .prefill = 0}.UsesSnapshot(1 << 20)));
  EXPECT_EQ(OptionsAt({}, tests, 1024).snapshot_every, 1024);
  EXPECT_EQ(OptionsAt({}, tests, 1024).max_context, 1536);
}

TEST(RunBenchTests, AddsARowForEachTestAndStopsWhenItIsAsked) {
  const BackendPtr backend = CreateBackend({.n_threads = 2}).value();
  const Model model = Model::Open(SourceDir() + "/models/demo", backend.get()).value();
  const BenchTests tests{.depths = {0, 20}, .decode = 1, .prefill = 4, .repeat = 1, .fill = CacheFill::kSynthetic};
  BenchReport report;
  ASSERT_TRUE(MeasureCeilings(ComputeType::kBF16, backend.get(), &report).ok());
  EXPECT_GT(report.gemm_ceiling(), 0);
  const std::vector<BenchMode> modes = {{"full", {}}};
  ASSERT_TRUE(RunBenchTests(model, modes, tests, false, {}, {}, &report).ok());
  ASSERT_EQ(report.rows.size(), 4u);
  EXPECT_EQ(report.rows[0].test, "decode");
  EXPECT_EQ(report.rows[1].test, "prefill");
  EXPECT_EQ(report.rows[3].depth, 20);
  const auto no = [] { return false; };
  EXPECT_EQ(RunBenchTests(model, modes, tests, false, {}, no, &report).code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace duo
