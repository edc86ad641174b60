// Compares the functions for finding heads over the CUDA backend with the CPU's. Runs on a GPU, or on the CPU
// (tests/cuda_on_host).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda_backend.h"
#include "backend/identify_ops.h"
#include "base/data_for_test.h"
#include "base/rng.h"
#include "duo/head_pattern.h"
#include "identify/head_scores.h"
#include "identify/linear_inputs.h"
#include "identify/teacher_student.h"
#include "tests/cuda_small_model.h"
#include "tests/golden_cases.h"

namespace duo {
namespace {

using namespace cuda_test;

BackendPtr Cpu() { return CreateBackend({.device = Device::kCpu, .n_threads = 1}).value(); }
BackendPtr Cuda() { return CreateCudaBackend().value(); }

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want, double relative) {
  ASSERT_EQ(got.size(), want.size());
  double largest = 0;
  for (const double x : want) largest = std::max(largest, std::fabs(x));
  ASSERT_GT(largest, 0);
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], relative * largest) << i;
}

TEST(CudaIdentify, LossAndGradientsAreThoseOfTheCpu) {
  const auto cpu = Cpu(), cuda = Cuda();
  for (const char* name : {"qwen3_yarn", "llama_biases_sharded_f16"}) {
    const golden::Golden g = golden::LoadGolden(SourceDir() + "/tests/data/golden/" + name);
    const std::vector<int32_t> ids(g.prompt.begin(),
                                   g.prompt.begin() + std::min<std::ptrdiff_t>(40, std::ssize(g.prompt)));
    const std::vector<double> gates = LoadHeadPattern(g.dir + "/pattern").value().gates;
    for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
      SCOPED_TRACE(std::string(name) + " " + ComputeTypeName(compute));
      const auto loss = [&](Backend* backend) {
        const Model model = Model::Open(g.dir, backend).value();
        TeacherStudent streams =
            TeacherStudent::Create(model, {.sink = 3, .recent = 6, .max_tokens = 40, .compute = compute}).value();
        Result<TwoStreamLoss> made = streams.Loss(ids, {30, 40}, gates);
        EXPECT_TRUE(made.ok()) << made.status().message();
        return std::move(made).value();
      };
      const TwoStreamLoss want = loss(cpu.get()), got = loss(cuda.get());
      const bool exact = compute == ComputeType::kF32;
      EXPECT_NEAR(got.distill, want.distill, (exact ? 1e-4 : 0.1) * want.distill);
      ExpectNear(got.gate_gradients, want.gate_gradients, exact ? 1e-3 : 0.2);
    }
  }
}

TEST(CudaIdentify, ScoresAreThoseOfTheCpu) {
  const auto cpu = Cpu(), cuda = Cuda();
  const Model here = Model::Random(Config(), 0, 3, cpu.get()).value();
  const Model there = Model::Random(Config(), 0, 3, cuda.get()).value();
  const std::vector<int32_t> context = Prompt(40), prompt = {1, 2, 3};
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    SCOPED_TRACE(ComputeTypeName(compute));
    const double bound = compute == ComputeType::kF32 ? 1e-4 : 0.03;
    const WalkOptions options{.compute = compute, .chunk = 16};
    const RepeatInput input{.context = context, .prompt = prompt, .sink = 2, .repeat_chunk = 20};
    ExpectNear(RepeatScores(there, input, options, {}).value(), RepeatScores(here, input, options, {}).value(), bound);
    ExpectNear(ProfileScores(there, {context}, options, {}).value(),
               ProfileScores(here, {context}, options, {}).value(), bound);
    ExpectNear(OutsideMassScores(there, {context}, 2, 8, options, {}).value(),
               OutsideMassScores(here, {context}, 2, 8, options, {}).value(), bound);
  }
}

/// An array of floats in a backend's memory.
class There {
 public:
  There(Backend* backend, const std::vector<float>& values)
      : backend_(backend), n_(values.size()), memory_(backend->Allocate(n_ * sizeof(float)).value()) {
    backend->FromHost(values.data(), memory_->data(), n_ * sizeof(float));
  }
  float* data() const { return reinterpret_cast<float*>(memory_->data()); }
  std::vector<double> Read() const {
    std::vector<float> values(n_);
    EXPECT_TRUE(backend_->ToHost(data(), values.data(), n_ * sizeof(float)).ok());
    return {values.begin(), values.end()};
  }

 private:
  Backend* backend_;
  size_t n_;
  DeviceMemoryPtr memory_;
};

std::vector<float> Normal(int64_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(n);
  for (float& x : values) x = static_cast<float>(rng.Normal());
  return values;
}

TEST(CudaIdentify, AttentionsGradientAgreesForMasksAndBlocks) {
  struct Case {
    int64_t n_tokens;
    LambdaMask mask;
  };
  const auto cpu = Cpu(), cuda = Cuda();
  const LambdaMask all;
  for (const Case& c :
       {Case{1, all}, Case{37, all}, Case{37, {.sink = 0, .window = 1}}, Case{37, {.sink = 5, .window = 4}},
        Case{600, {.sink = 3, .window = 20}}, Case{530, {.sink = 520, .window = 2}}}) {
    SCOPED_TRACE(std::to_string(c.n_tokens) + " tokens, window " + std::to_string(c.mask.window));
    constexpr int kHeads = 2, kGroup = 2, kDim = 8;
    const int64_t nq = c.n_tokens * kHeads * kGroup * kDim, nk = c.n_tokens * kHeads * kDim;
    const auto run = [&](Backend* backend) {
      const There q(backend, Normal(nq, 1)), k(backend, Normal(nk, 2)), v(backend, Normal(nk, 3)),
          d_out(backend, Normal(nq, 4)), dq(backend, Normal(nq, 5)), dk(backend, Normal(nk, 6)),
          dv(backend, Normal(nk, 7));
      const Status status = backend->identify_ops()->Attention({.q = q.data(),
                                                                .k = k.data(),
                                                                .v = v.data(),
                                                                .d_out = d_out.data(),
                                                                .n_tokens = c.n_tokens,
                                                                .n_kv_heads = kHeads,
                                                                .group = kGroup,
                                                                .head_dim = kDim,
                                                                .scale = 0.4f,
                                                                .mask = c.mask,
                                                                .dq = dq.data(),
                                                                .dk = dk.data(),
                                                                .dv = dv.data()});
      EXPECT_TRUE(status.ok()) << status.message();
      std::vector<double> all_gradients = dq.Read();
      for (const auto& more : {dk.Read(), dv.Read()})
        all_gradients.insert(all_gradients.end(), more.begin(), more.end());
      return all_gradients;
    };
    ExpectNear(run(cuda.get()), run(cpu.get()), 2e-5);
    if (HasFatalFailure()) return;
  }
}

TEST(CudaIdentify, ANanAmongTheKeysShows) {
  const auto cuda = Cuda();
  std::vector<float> keys = Normal(30 * 8, 1);
  keys[100] = NAN;
  const There q(cuda.get(), Normal(5 * 8, 2)), lse(cuda.get(), std::vector<float>(5, 3.0f)), k(cuda.get(), keys);
  const uint8_t* rows[] = {reinterpret_cast<const uint8_t*>(k.data())};
  std::vector<double> largest = {0};
  ASSERT_TRUE(cuda->identify_ops()
                  ->LargestKeyWeights({.q = q.data(),
                                       .lse = lse.data(),
                                       .host_keys = rows,
                                       .key_type = DType::kF32,
                                       .n_tokens = 5,
                                       .n_keys = 30,
                                       .group = 1,
                                       .head_dim = 8},
                                      largest)
                  .ok());
  EXPECT_TRUE(std::isnan(largest[0]));
}

TEST(CudaIdentify, InputsOfProductsAreThoseOfTheCpu) {
  const auto cpu = Cpu(), cuda = Cuda();
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    SCOPED_TRACE(ComputeTypeName(compute));
    const auto measure = [&](Backend* backend) {
      const Model model = Model::Random(Config(), 0, 3, backend).value();
      return MeasureLinearInputs(model, Prompt(40), {.compute = compute, .chunk = 24}).value();
    };
    const std::vector<LayerInputs> want = measure(cpu.get()), got = measure(cuda.get());
    for (size_t layer = 0; layer < want.size(); ++layer) {
      for (int input = 0; input < kLinearInputs; ++input) {
        const double rms = want[layer].of[input].rms;
        EXPECT_NEAR(got[layer].of[input].rms, rms, (compute == ComputeType::kF32 ? 1e-5 : 0.02) * rms)
            << "layer " << layer << " input " << input;
      }
    }
  }
}

}  // namespace
}  // namespace duo
