// The whole engine against the golden models (golden_cases.h).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "duo/backend.h"
#include "kernels/cpu/vec/isa.h"
#include "tests/golden_cases.h"

namespace duo {
namespace {

using namespace golden;

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  void TearDown() override { unsetenv("DUO_ISA"); }
};

TEST_P(GoldenTest, AgreesForEveryChunkThreadCountAndInstructionSet) {
  const Golden golden = LoadGolden(GetParam());
  auto pattern = LoadHeadPattern(golden.dir + "/pattern");
  ASSERT_TRUE(pattern.ok()) << pattern.status().message();
  EXPECT_EQ(pattern->sink, golden.sink);
  EXPECT_EQ(pattern->recent, golden.recent);
  auto choice = ChooseBySparsity(*pattern, golden.sparsity);
  ASSERT_TRUE(choice.ok());
  for (int layer = 0; layer < choice->n_layers; ++layer) {
    for (int head = 0; head < choice->n_kv_heads; ++head) {
      EXPECT_EQ(choice->is_retrieval(layer, head), golden.retrieval[layer][head] != 0);
    }
  }
  for (int isa = 0; isa <= static_cast<int>(DetectIsa()); ++isa) {
    setenv("DUO_ISA", IsaName(static_cast<Isa>(isa)), 1);
    for (const int threads : {1, 2}) {
      auto backend = CreateBackend({.device = Device::kCpu, .n_threads = threads});
      ASSERT_TRUE(backend.ok()) << backend.status().message();
      auto model = Model::Open(golden.dir, backend->get());
      ASSERT_TRUE(model.ok()) << model.status().message();
      for (const int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{64}, std::ssize(golden.prompt)}) {
        SCOPED_TRACE(DescribeBackend(**backend) + ", chunk " + std::to_string(chunk));
        CheckMode(*model, golden, AllRetrieval(choice->n_layers, choice->n_kv_heads), chunk);
        CheckMode(*model, golden, *choice, chunk);
      }
    }
  }
}

TEST(GoldenCases, AreAllThere) {
  const std::vector<std::string> dirs = CaseDirs();
  const auto own = std::count_if(dirs.begin(), dirs.end(), [](const std::string& dir) { return IsOwn(dir); });
  EXPECT_EQ(own, 6) << "tests/data/golden";
  if (own == std::ssize(dirs)) GTEST_SKIP() << "SKIPPED: no further cases in DUO_SHARED_DIR";
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenTest, testing::ValuesIn(CaseDirs()), [](const auto& one) {
  return std::string(IsOwn(one.param) ? "own_" : "shared_") + std::filesystem::path(one.param).filename().string();
});

}  // namespace
}  // namespace duo
