// The CUDA backend on the stand-in for a device: memory is freed, memory is planned, faults become errors.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda_backend.h"
#include "backend/identify_ops.h"
#include "backend/meter.h"
#include "cuda_on_host/device.h"
#include "duo/session.h"
#include "tests/cuda_small_model.h"

namespace duo {
namespace {

using namespace cuda_test;

class CudaBackendOnHost : public testing::Test {
 protected:
  void TearDown() override {
    cuda_on_host::Drain();
    cuda_on_host::SetError(0);
    cuda_on_host::Facts() = {};
  }
};

TEST_F(CudaBackendOnHost, MemoryIsGivenBack) {
  {
    const auto cuda = CreateCudaBackend().value();
    const size_t before = cuda_on_host::UsedBytes();
    {
      const Model model = Model::Random(Config(), 0, 3, cuda.get()).value();
      const size_t with_model = cuda_on_host::UsedBytes();
      {
        Session session = Session::Create(model, Options(ComputeType::kBF16, KvType::kBF16)).value();
        ASSERT_TRUE(session.Prefill(Prompt(50)).ok());
      }
      // Only the backend's own scratch remains.
      EXPECT_LE(cuda_on_host::UsedBytes(), with_model + (size_t{1} << 20));
    }
    EXPECT_LE(cuda_on_host::UsedBytes(), before + (size_t{1} << 20));
  }
  EXPECT_EQ(cuda_on_host::UsedBytes(), 0u);
}

TEST_F(CudaBackendOnHost, WhatASessionTakesIsPlanned) {
  struct Case {
    ComputeType compute;
    WeightType weights;
    int64_t max_context;  // 2000: heads share pages of 2 MiB; longer: heads have their own
  };
  for (const auto& [compute, weights, max_context] : {Case{ComputeType::kBF16, WeightType::kNative, 2000},
                                                      {ComputeType::kBF16, WeightType::kNative, 1 << 20},
                                                      {ComputeType::kInt8, WeightType::kInt8, 2000},
                                                      {ComputeType::kBF16, WeightType::kInt4, 2000},
                                                      {ComputeType::kF32, WeightType::kInt8, 2000}}) {
    SCOPED_TRACE(std::string(ComputeTypeName(compute)) + ", weights " + WeightTypeName(weights) + ", context " +
                 std::to_string(max_context));
    const auto cuda = CreateCudaBackend().value();
    ModelConfig config = Config();
    config.vocab_size = 3000;  // more outputs than any layer has
    const Model model = Model::Random(config, 0, 3, cuda.get(), {.weights = weights, .progress = {}}).value();
    SessionOptions options = Options(compute, KvType::kBF16);
    options.max_context = max_context;
    options.snapshot_every = 0;
    const size_t before = cuda_on_host::UsedBytes();
    Session session = Session::Create(model, options).value();
    ASSERT_TRUE(session.FillSynthetic(1900, 1).ok());
    ASSERT_TRUE(session.Prefill(Prompt(30)).ok());
    for (const int32_t id : {1, 2}) ASSERT_TRUE(session.Decode(id).ok());  // the second step runs as graphs
    const int64_t at = session.len();
    ASSERT_TRUE(session.PrefillWithLogits(Prompt(20), at, at + 20, [](int64_t, auto) { return OkStatus(); }).ok());
    const MemoryPlan& plan = session.plan();
    EXPECT_GT(plan.kv_page_bytes, 0u);
    EXPECT_LE(cuda_on_host::UsedBytes() - before, plan.TotalBytes(session.len()) - plan.weights_bytes);
  }
}

TEST_F(CudaBackendOnHost, WhatWeightsOfKeysTakeIsPlanned) {
  struct Case {
    int64_t n_tokens, n_keys;
    int n_heads, head_dim;
  };
  // One block of scores, several blocks, and one block with room for fewer queries.
  for (const Case& c : {Case{5, 40, 2, 8}, {700, 50, 1, 8}, {20, 900000, 1, 2}}) {
    const auto cuda = CreateCudaBackend().value();
    const auto zeros = [&](int64_t n) {
      DeviceMemoryPtr memory = cuda->Allocate(static_cast<size_t>(n) * sizeof(float)).value();
      const std::vector<float> values(n);
      cuda->FromHost(values.data(), memory->data(), memory->bytes());
      return memory;
    };
    const DeviceMemoryPtr q = zeros(c.n_tokens * c.n_heads * c.head_dim), lse = zeros(c.n_tokens * c.n_heads);
    const DeviceMemoryPtr key = zeros(c.n_keys * c.head_dim);  // all zeros, in bf16 too
    const std::vector<const uint8_t*> keys(c.n_heads, key->data());
    std::vector<double> largest(keys.size());
    const size_t before = cuda_on_host::UsedBytes();
    const Status status = cuda->identify_ops()->LargestKeyWeights({.q = reinterpret_cast<const float*>(q->data()),
                                                                   .lse = reinterpret_cast<const float*>(lse->data()),
                                                                   .host_keys = keys,
                                                                   .key_type = DType::kBF16,
                                                                   .n_tokens = c.n_tokens,
                                                                   .n_keys = c.n_keys,
                                                                   .group = 1,
                                                                   .head_dim = c.head_dim,
                                                                   .scale = 1},
                                                                  largest);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(largest[0], 1.0);
    EXPECT_LE(cuda_on_host::UsedBytes() - before,
              cuda->identify_ops()->KeyWeightScratchBytes(c.n_tokens, c.n_keys, c.n_heads, c.head_dim));
  }
}

TEST_F(CudaBackendOnHost, WhatDoesNotFitIsRefusedWithNumbers) {
  cuda_on_host::Facts().memory_bytes = 100 << 10;
  const auto cuda = CreateCudaBackend().value();
  const Status weights = Model::Random(Config(), 0, 3, cuda.get()).status();
  EXPECT_EQ(weights.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(weights.message().find("of device memory"), std::string::npos) << weights.message();
  cuda_on_host::Facts().memory_bytes = 28 << 20;
  const Model model = Model::Random(Config(), 0, 3, cuda.get()).value();
  SessionOptions options = Options(ComputeType::kBF16, KvType::kF32);
  options.max_context = 1 << 20;
  options.snapshot_every = 0;
  Session session = Session::Create(model, options).value();
  const Status context = session.CheckFits(1 << 20);
  EXPECT_EQ(context.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(context.message().find("would fit"), std::string::npos) << context.message();
  EXPECT_TRUE(session.CheckFits(1000).ok());
  // A later call fails too, when the next pages are not available.
  Status last;
  for (int i = 0; i < 100 && last.ok(); ++i) last = session.FillSynthetic(1000, 1);
  EXPECT_EQ(last.code(), StatusCode::kResourceExhausted) << last.message();
}

TEST_F(CudaBackendOnHost, ADecodedTokenIsAGraphForEveryLayer) {
  const auto cuda = CreateCudaBackend().value();
  const auto logits_of = [](const Session& session) {
    return std::vector<float>(session.logits().begin(), session.logits().end());
  };
  for (const ComputeType compute : {ComputeType::kBF16, ComputeType::kInt8}) {
    SCOPED_TRACE(ComputeTypeName(compute));
    const WeightType weights = compute == ComputeType::kInt8 ? WeightType::kInt8 : WeightType::kNative;
    const Model model = Model::Random(Config(64), 0, 3, cuda.get(), {.weights = weights, .progress = {}}).value();
    const SessionOptions options = Options(compute, KvType::kBF16);
    Session session = Session::Create(model, options).value();
    ASSERT_TRUE(session.Prefill(Prompt(30)).ok());
    ASSERT_TRUE(session.Decode(3).ok());  // allocates the scratch that it needs between launches
    for (const int32_t id : {60, 7}) {
      const int64_t kernels = cuda_on_host::KernelsRun(), graphs = cuda_on_host::GraphsLaunched();
      ASSERT_TRUE(session.Decode(id).ok());
      EXPECT_EQ(cuda_on_host::GraphsLaunched() - graphs, 3);
      // Per layer: norm, q k v, RoPE, storing, attention, o, norm, gate up, SwiGLU, down. With int8, one kernel more
      // rounds o's input to int8. Once: embedding, norm, logits.
      EXPECT_EQ(cuda_on_host::KernelsRun() - kernels, 3 * (compute == ComputeType::kInt8 ? 11 : 10) + 3);
    }
    const std::vector<float> want = logits_of(session);
    // No graphs run when times are measured between the launches, or when the driver has no graphs.
    for (const bool timed : {true, false}) {
      cuda_on_host::Facts().has_graphs = timed;
      const auto other = CreateCudaBackend().value();
      const Model same = Model::Random(Config(64), 0, 3, other.get(), {.weights = weights, .progress = {}}).value();
      Session plain = Session::Create(same, options).value();
      ASSERT_TRUE(plain.Prefill(Prompt(30)).ok());
      if (timed) other->meter()->ResetTimes();
      const int64_t graphs = cuda_on_host::GraphsLaunched();
      for (const int32_t id : {3, 60, 7}) ASSERT_TRUE(plain.Decode(id).ok());
      EXPECT_EQ(cuda_on_host::GraphsLaunched(), graphs);
      EXPECT_EQ(logits_of(plain), want);
      if (!timed) continue;
      EXPECT_GT(other->meter()->Times().attention_s, 0);
      ASSERT_TRUE(plain.Decode(9).ok());
      EXPECT_EQ(cuda_on_host::GraphsLaunched(), graphs + 3) << "no times are measured after they were read";
    }
    cuda_on_host::Facts() = {};
  }
}

TEST_F(CudaBackendOnHost, AFaultOnTheDeviceIsASentence) {
  const auto cuda = CreateCudaBackend().value();
  const Model model = Model::Random(Config(), 0, 3, cuda.get()).value();
  Session session = Session::Create(model, Options(ComputeType::kBF16, KvType::kBF16)).value();
  ASSERT_TRUE(session.Prefill(Prompt(30)).ok());
  cuda_on_host::FailNextKernel(700);  // cudaErrorIllegalAddress
  const Status status = session.Decode(3);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_NE(status.message().find("illegal memory access"), std::string::npos) << status.message();
  EXPECT_FALSE(session.Decode(3).ok()) << "a device with a fault does not work again";
}

TEST_F(CudaBackendOnHost, ALayerThatCannotBeLaunchedLeavesTheSessionAsItWas) {
  const auto cuda = CreateCudaBackend().value();
  ModelConfig config = Config();
  config.n_layers = 1;  // the fault is in the last layer, so no later layer can report it
  const Model model = Model::Random(config, 0, 3, cuda.get()).value();
  SessionOptions options = Options(ComputeType::kBF16, KvType::kBF16);
  options.heads = AllRetrieval(1, 2);
  Session session = Session::Create(model, options).value();
  ASSERT_TRUE(session.Prefill(Prompt(30)).ok());
  ASSERT_TRUE(session.Decode(3).ok());
  const int64_t len = session.len();
  cuda_on_host::Facts().shared_bytes = 100;  // less than a norm needs
  const Status status = session.Decode(3);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_EQ(session.len(), len);
}

TEST_F(CudaBackendOnHost, DevicesThatCannotBeUsedAreNamed) {
  struct Case {
    cuda_on_host::DeviceFacts facts;
    const char* needle;
  };
  cuda_on_host::DeviceFacts none, old_driver, no_driver, old_device;
  none.n_devices = 0;
  old_driver.driver_version = 12040;
  no_driver.driver_version = 0;
  old_device.major = 7, old_device.minor = 5;
  for (const Case& c : {Case{none, "no NVIDIA GPU"}, Case{old_driver, "CUDA 12.4"}, Case{no_driver, "no NVIDIA driver"},
                        Case{old_device, "7.5"}}) {
    cuda_on_host::Facts() = c.facts;
    const Status status = CreateCudaBackend().status();
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find(c.needle), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace duo
