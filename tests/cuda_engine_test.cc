// The whole engine over the CUDA backend beside the golden models and the CPU's backend: on a GPU, or on the CPU
// (tests/cuda_on_host).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda_backend.h"
#include "base/temp_dir_for_test.h"
#include "duo/session.h"
#include "model/fingerprint.h"
#include "tests/cuda_small_model.h"
#include "tests/golden_cases.h"

namespace duo {
namespace {

using namespace golden;
using namespace cuda_test;

class CudaGoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(CudaGoldenTest, Agrees) {
  const Golden golden = LoadGolden(GetParam());
  const HeadChoice choice = ChooseBySparsity(LoadHeadPattern(golden.dir + "/pattern").value(), golden.sparsity).value();
  auto backend = CreateCudaBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status().message();
  const auto model = Model::Open(golden.dir, backend->get());
  ASSERT_TRUE(model.ok()) << model.status().message();
  for (const int64_t chunk : {int64_t{7}, static_cast<int64_t>(golden.prompt.size())}) {
    SCOPED_TRACE("chunk " + std::to_string(chunk));
    CheckMode(*model, golden, AllRetrieval(choice.n_layers, choice.n_kv_heads), chunk);
    CheckMode(*model, golden, choice, chunk);
  }
}

/// The larger ones take minutes on the CPU.
std::vector<std::string> Cases() {
  std::vector<std::string> dirs = CaseDirs();
#ifdef DUO_CUDA_ON_HOST
  std::erase_if(dirs, [](const std::string& dir) { return !IsOwn(dir); });
#endif
  return dirs;
}

INSTANTIATE_TEST_SUITE_P(Golden, CudaGoldenTest, testing::ValuesIn(Cases()),
                         [](const auto& one) { return std::filesystem::path(one.param).filename().string(); });

float LargestOf(const std::vector<float>& values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}
float WorstOf(const std::vector<float>& got, const std::vector<float>& want) {
  float worst = got.size() == want.size() ? 0 : INFINITY;
  for (size_t i = 0; i < want.size() && std::isfinite(worst); ++i) {
    const float error = std::fabs(got[i] - want[i]);
    worst = std::max(worst, std::isnan(error) ? INFINITY : error);
  }
  return worst;
}

/// Logits behind a prompt and behind three tokens more.
std::vector<float> Logits(Backend* backend, WeightType weights, const SessionOptions& options) {
  const int head_dim = options.compute == ComputeType::kF32 ? 16 : 64;
  const auto model = Model::Random(Config(head_dim), 0, 3, backend, {.weights = weights, .progress = {}});
  EXPECT_TRUE(model.ok()) << model.status().message();
  auto session = Session::Create(*model, options);
  EXPECT_TRUE(session.ok()) << session.status().message();
  const Status read = session->Prefill(Prompt(60));
  EXPECT_TRUE(read.ok()) << read.message();
  std::vector<float> logits(session->logits().begin(), session->logits().end());
  for (const int32_t id : {5, 17, 80}) {
    EXPECT_TRUE(session->Decode(id).ok());
    logits.insert(logits.end(), session->logits().begin(), session->logits().end());
  }
  return logits;
}

TEST(CudaEngine, IsTheCpuWithinRounding) {
  const auto cpu = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
  struct Case {
    ComputeType compute;
    WeightType weights;
    KvType kv_type;
    double bound;  // of the largest logit
  };
  // The CPU rounds queries to integers over codes, and neither rounds the same sums alike.
  const Case cases[] = {{ComputeType::kF32, WeightType::kNative, KvType::kF32, 1e-5},
                        {ComputeType::kF32, WeightType::kNative, KvType::kBF16, 0.01},
                        {ComputeType::kBF16, WeightType::kNative, KvType::kBF16, 0.02},
                        {ComputeType::kBF16, WeightType::kNative, KvType::kInt8, 0.03},
                        {ComputeType::kBF16, WeightType::kNative, KvType::kInt4, 0.2},
                        {ComputeType::kF32, WeightType::kInt8, KvType::kF32, 1e-5},
                        {ComputeType::kF32, WeightType::kInt4, KvType::kF32, 1e-5},
                        {ComputeType::kBF16, WeightType::kInt8, KvType::kBF16, 0.03},
                        {ComputeType::kBF16, WeightType::kInt4, KvType::kBF16, 0.03}};
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(ComputeTypeName(c.compute)) + ", weights " + WeightTypeName(c.weights) + ", kv " +
                 KvTypeName(c.kv_type));
    const auto cuda = CreateCudaBackend({}).value();
    const SessionOptions options = Options(c.compute, c.kv_type);
    const std::vector<float> want = Logits(cpu.get(), c.weights, options), got = Logits(cuda.get(), c.weights, options);
    EXPECT_GT(LargestOf(want), 0);
    EXPECT_LE(WorstOf(got, want), c.bound * LargestOf(want)) << WorstOf(got, want) / LargestOf(want);
  }
}

TEST(CudaEngine, RewindsClonesAndSavesExactly) {
  const auto cuda = CreateCudaBackend({}).value();
  const Model model = Model::Random(Config(), 0, 3, cuda.get()).value();
  const TempDir dir;
  for (const KvType type : {KvType::kF32, KvType::kInt4}) {
    SCOPED_TRACE(KvTypeName(type));
    const SessionOptions options = Options(ComputeType::kF32, type);
    const std::vector<int32_t> ids = Prompt(70);
    const auto after = [&](Session session, size_t from) {
      const Status read = session.Prefill(std::span<const int32_t>(ids).subspan(from));
      EXPECT_TRUE(read.ok()) << read.message();
      return std::vector<float>(session.logits().begin(), session.logits().end());
    };
    Session session = Session::Create(model, options).value();
    ASSERT_TRUE(session.Prefill(std::span<const int32_t>(ids).first(48)).ok());
    const std::vector<float> whole = after(session.Clone().value(), 48);
    const std::string path = dir.path() + "/a.session";
    ASSERT_TRUE(session.Save(path).ok());
    EXPECT_EQ(after(Session::Load(model, options, path).value(), 48), whole);
    ASSERT_TRUE(session.Decode(7).ok());
    ASSERT_TRUE(session.Rewind(40).ok());
    // Read again in other chunks: sums of the same numbers in another order.
    const std::vector<float> again = after(std::move(session), 40);
    EXPECT_LE(WorstOf(again, whole), (type == KvType::kF32 ? 1e-5f : 0.02f) * LargestOf(whole));
  }
}

TEST(CudaEngine, DecodesTogetherWhatEachGivesAlone) {
  const auto cuda = CreateCudaBackend({}).value();
  const Model model = Model::Random(Config(), 0, 3, cuda.get()).value();
  const SessionOptions options = Options(ComputeType::kF32, KvType::kBF16);
  Workspace workspace = Workspace::Create(model, options).value();
  std::vector<Session> sessions;
  std::vector<Session*> pointers;
  std::vector<int32_t> next;
  std::vector<std::vector<float>> alone;
  for (int i = 0; i < 3; ++i) {
    sessions.push_back(Session::Create(model, options, &workspace).value());
    ASSERT_TRUE(sessions.back().Prefill(Prompt(20 + 9 * i)).ok());
    next.push_back(11 + i);
    Session copy = sessions.back().Clone().value();
    ASSERT_TRUE(copy.Decode(next.back()).ok());
    alone.emplace_back(copy.logits().begin(), copy.logits().end());
  }
  for (Session& session : sessions) pointers.push_back(&session);
  ASSERT_TRUE(Session::DecodeTogether(pointers, next).ok());
  for (size_t i = 0; i < sessions.size(); ++i) {
    EXPECT_EQ(std::vector<float>(sessions[i].logits().begin(), sessions[i].logits().end()), alone[i]);
  }
}

TEST(CudaEngine, KnowsTheModelWhoseWeightsTheHostNoLongerHas) {
  const auto cpu = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
  const auto cuda = CreateCudaBackend({}).value();
  const Model here = Model::Random(Config(), 0, 3, cpu.get()).value();
  const Model there = Model::Random(Config(), 0, 3, cuda.get()).value();
  EXPECT_EQ(ModelFingerprint(there), ModelFingerprint(here));
  EXPECT_EQ(there.mapped_bytes(), 0u);
}

}  // namespace
}  // namespace duo
