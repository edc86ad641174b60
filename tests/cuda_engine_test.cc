// Compares the whole engine over the CUDA backend with the golden models and with the CPU's backend. Runs on a GPU, or
// on the CPU (tests/cuda_on_host).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda_backend.h"
#include "base/bf16.h"
#include "base/rng.h"
#include "base/temp_dir_for_test.h"
#include "duo/session.h"
#include "kernels/weight_codes.h"
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
  auto backend = CreateCudaBackend();
  ASSERT_TRUE(backend.ok()) << backend.status().message();
  const auto model = Model::Open(golden.dir, backend->get());
  ASSERT_TRUE(model.ok()) << model.status().message();
  for (const int64_t chunk : {int64_t{7}, std::ssize(golden.prompt)}) {
    SCOPED_TRACE("chunk " + std::to_string(chunk));
    CheckMode(*model, golden, AllRetrieval(choice.n_layers, choice.n_kv_heads), chunk);
    CheckMode(*model, golden, choice, chunk);
  }
}

/// Leaves out the larger models on the CPU, where they take minutes.
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

/// Logits after a prompt and after each of three more tokens.
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
    double bound;  // relative to the largest logit
  };
  // The CPU rounds queries to integers when keys are codes. The two backends also round the same sums differently.
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
    const auto cuda = CreateCudaBackend().value();
    const SessionOptions options = Options(c.compute, c.kv_type);
    const std::vector<float> want = Logits(cpu.get(), c.weights, options), got = Logits(cuda.get(), c.weights, options);
    EXPECT_GT(LargestOf(want), 0);
    EXPECT_LE(WorstOf(got, want), c.bound * LargestOf(want)) << WorstOf(got, want) / LargestOf(want);
  }
}

/// Linear over a matrix of random numbers. The result has its output, and the input that it leaves in `made`.
struct ProductCase {
  ComputeType compute;
  DType type;
  int64_t n_tokens, n_in;
  enum { kPlain, kNorm, kUp } what;
  bool kept;
};
struct ProductResult {
  std::vector<float> out, prepared;
};
ProductResult RunProduct(Backend* backend, const ProductCase& c) {
  constexpr int64_t kOut = 36;
  Rng rng(static_cast<uint64_t>(c.n_tokens * 1000 + c.n_in));
  std::vector<DeviceMemoryPtr> memory;
  const auto there = [&](const void* host, size_t bytes) {
    memory.push_back(backend->Allocate(bytes).value());
    backend->FromHost(host, memory.back()->data(), bytes);
    return memory.back()->data();
  };
  const auto floats = [&](int64_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = static_cast<float>(rng.Normal());
    return values;
  };
  const auto floats_there = [&](int64_t n) {
    const std::vector<float> values = floats(n);
    return reinterpret_cast<float*>(there(values.data(), values.size() * sizeof(float)));
  };
  const std::vector<float> w = floats(kOut * c.n_in);
  std::vector<float> scales(kOut);
  std::vector<int8_t> codes(w.size());
  std::vector<bf16> rounded;
  for (const float value : w) rounded.push_back(ToBf16(value));
  for (int64_t row = 0; row < kOut; ++row) {
    QuantizeInt8(w.data() + row * c.n_in, c.n_in, codes.data() + row * c.n_in, &scales[row]);
  }
  MatrixView view{.dtype = c.type, .n_out = kOut, .n_in = c.n_in};
  if (c.type == DType::kI8) {
    view.data = there(codes.data(), codes.size());
    view.scale = reinterpret_cast<float*>(there(scales.data(), scales.size() * sizeof(float)));
  } else {
    view.data = there(rounded.data(), rounded.size() * sizeof(bf16));
  }
  const int64_t n = c.n_tokens * c.n_in;
  float* x = floats_there(n);
  ProductInput input{.x = x, .n_tokens = c.n_tokens, .n_in = c.n_in, .eps = 1e-5f, .keep_prepared = c.kept};
  if (c.what == ProductCase::kNorm) input.norm = floats_there(c.n_in), input.prepared = floats_there(n);
  if (c.what == ProductCase::kUp) input.up = floats_there(n), input.prepared = x;
  float* out = floats_there(c.n_tokens * kOut);
  const LinearTask tasks[] = {{view, floats_there(kOut), out, true}};
  const Status status = backend->Linear(c.compute, input, tasks);
  EXPECT_TRUE(status.ok()) << status.message();
  ProductResult result{std::vector<float>(c.n_tokens * kOut), {}};
  EXPECT_TRUE(backend->ToHost(out, result.out.data(), result.out.size() * sizeof(float)).ok());
  if (c.kept && c.what != ProductCase::kPlain) {
    result.prepared.resize(n);
    EXPECT_TRUE(backend->ToHost(input.prepared, result.prepared.data(), result.prepared.size() * sizeof(float)).ok());
  }
  return result;
}

// Has widths that cuBLASLt takes and others, and few and many tokens.
TEST(CudaEngine, ProductsOfEveryInputAreThoseOfTheCpu) {
  const auto cpu = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
  const auto cuda = CreateCudaBackend().value();
  for (const int64_t n_tokens : {1, 3, 8, 9, 21}) {
    for (const int64_t n_in : {64, 36, 45}) {
      for (const auto& [compute, type] : {std::pair{ComputeType::kF32, DType::kBF16},
                                          {ComputeType::kBF16, DType::kBF16},
                                          {ComputeType::kBF16, DType::kI8},
                                          {ComputeType::kInt8, DType::kI8}}) {
        for (const auto what : {ProductCase::kPlain, ProductCase::kNorm, ProductCase::kUp}) {
          for (const bool kept : {false, true}) {
            const ProductCase c{compute, type, n_tokens, n_in, what, kept};
            SCOPED_TRACE(std::string(ComputeTypeName(compute)) + " " + DTypeName(type) + " tokens " +
                         std::to_string(n_tokens) + " inputs " + std::to_string(n_in) + " prepared by " +
                         std::to_string(what) + (kept ? ", kept" : ""));
            const ProductResult want = RunProduct(cpu.get(), c), got = RunProduct(cuda.get(), c);
            // A number between two values of bf16 or int8 may be rounded to either.
            const double bound = compute == ComputeType::kF32 ? 1e-5 : 0.02;
            ASSERT_LE(WorstOf(got.out, want.out), bound * LargestOf(want.out));
            ASSERT_LE(WorstOf(got.prepared, want.prepared), 1e-5 * LargestOf(want.prepared));
          }
        }
      }
    }
  }
}

TEST(CudaEngine, RewindsClonesAndSavesExactly) {
  const auto cuda = CreateCudaBackend().value();
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
    // Other chunks add the same numbers in another order.
    const std::vector<float> again = after(std::move(session), 40);
    EXPECT_LE(WorstOf(again, whole), (type == KvType::kF32 ? 1e-5f : 0.02f) * LargestOf(whole));
  }
}

TEST(CudaEngine, DecodesTogetherWhatEachGivesAlone) {
  const auto cuda = CreateCudaBackend().value();
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
  const auto cuda = CreateCudaBackend().value();
  const Model here = Model::Random(Config(), 0, 3, cpu.get()).value();
  const Model there = Model::Random(Config(), 0, 3, cuda.get()).value();
  EXPECT_EQ(ModelFingerprint(there), ModelFingerprint(here));
  EXPECT_EQ(there.mapped_bytes(), 0u);
}

}  // namespace
}  // namespace duo
