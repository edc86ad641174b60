// Defaults and checks of session options, and the memory that they need.
#include <gtest/gtest.h>

#include <string>

#include "backend/backend.h"
#include "duo/session.h"
#include "kv/split_kv_cache.h"
#include "model/tiny_config_for_test.h"

namespace duo {
namespace {

HeadChoice HalfOfThem() { return {.n_layers = 3, .n_kv_heads = 2, .retrieval = {1, 0, 0, 0, 1, 1}}; }

SessionOptions Resolved(const SessionOptions& options, const ModelConfig& config = TinyConfig()) {
  auto resolved = ResolveOptions(config, options);
  EXPECT_TRUE(resolved.ok()) << resolved.status().message();
  return resolved.ok() ? *resolved : SessionOptions{};
}

TEST(ResolveOptions, FillsInWhatTheModelKnows) {
  const SessionOptions options = Resolved({});
  EXPECT_EQ(options.heads.n_layers, 3);
  EXPECT_EQ(options.heads.n_kv_heads, 2);
  EXPECT_EQ(options.heads.n_retrieval(), 6);
  EXPECT_EQ(options.prefill_recent, options.recent);
  EXPECT_EQ(options.max_context, 600) << "what the model was trained for";
  EXPECT_EQ(Resolved({.heads = HalfOfThem()}).heads.retrieval, HalfOfThem().retrieval);
  EXPECT_EQ(Resolved({.heads = {}, .recent = 20, .prefill_recent = 90}).prefill_recent, 90);
  EXPECT_EQ(Resolved({.heads = {}, .recent = 1}).prefill_recent, 1);
  EXPECT_EQ(Resolved({.heads = {}, .max_context = 7000}).max_context, 7000);
}

TEST(ResolveOptions, APinnedPrefixIsMadeOfSinks) {
  EXPECT_EQ(Resolved({.heads = {}, .sink = 64, .pinned_prefix = 0}).sink, 64);
  EXPECT_EQ(Resolved({.heads = {}, .sink = 64, .pinned_prefix = 63}).sink, 64);
  EXPECT_EQ(Resolved({.heads = {}, .sink = 64, .pinned_prefix = 90}).sink, 90);
  EXPECT_EQ(Resolved({.heads = {}, .sink = 0, .pinned_prefix = 0}).sink, 0);
}

TEST(ResolveOptions, RefusesWhatTheModelCannot) {
  const auto message = [](const SessionOptions& options, const ModelConfig& config = TinyConfig()) {
    const Status status = ResolveOptions(config, options).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return status.message();
  };
  EXPECT_EQ(Resolved({.heads = {}, .chunk = 1}).chunk, 1);
  EXPECT_EQ(Resolved({.heads = {}, .chunk = 65536, .max_context = 100000}).chunk, 65536);
  EXPECT_EQ(Resolved({.heads = {}, .chunk = 65536, .max_context = 600}).chunk, 600)
      << "the chunk is limited to the context";
  EXPECT_EQ(message({.heads = {}, .chunk = 65537}), "chunk is 65537; expected 1..65536 tokens");
  EXPECT_EQ(message({.heads = {}, .chunk = 0}), "chunk is 0; expected 1..65536 tokens");
  EXPECT_EQ(message({.heads = {}, .sink = -1}), "sink is -1; expected 0 or more tokens");
  EXPECT_EQ(message({.heads = {}, .pinned_prefix = -1}), "pinned_prefix is -1; expected 0 or more tokens");
  EXPECT_EQ(message({.heads = {}, .max_context = -1}), "max_context is -1; expected 0 or more tokens");
  EXPECT_NE(message({.heads = AllRetrieval(2, 2)}).find("2 layers x 2"), std::string::npos);
  EXPECT_NE(message({.heads = AllRetrieval(3, 1)}).find("3 layers x 1"), std::string::npos);
  HeadChoice longer = AllRetrieval(3, 2);
  longer.retrieval.push_back(1);
  EXPECT_NE(message({.heads = longer}).find("the model has 3 x 2"), std::string::npos);

  ModelConfig dynamic = TinyConfig();
  dynamic.max_context = 600;
  EXPECT_EQ(Resolved({.heads = {}, .max_context = 600}, dynamic).max_context, 600);
  EXPECT_NE(message({.heads = {}, .max_context = 601}, dynamic).find("at most 600"), std::string::npos);
  EXPECT_EQ(Resolved({}, dynamic).max_context, 600);
}

TEST(ResolveOptions, ComputesInInt8WithInt8WeightsOnly) {
  ModelConfig config = TinyConfig();
  const SessionOptions int8 = {.heads = {}, .compute = ComputeType::kInt8};
  const auto message = [&] { return ResolveOptions(config, int8).status().message(); };
  EXPECT_NE(message().find("these are bf16"), std::string::npos) << message();
  config.weights = WeightType::kInt4;
  EXPECT_NE(message().find("these are int4"), std::string::npos) << message();
  config.weights = WeightType::kInt8;
  EXPECT_EQ(Resolved(int8, config).compute, ComputeType::kInt8);
  EXPECT_EQ(Resolved({.heads = {}, .compute = ComputeType::kF32}, config).compute, ComputeType::kF32);
}

TEST(MemoryPlan, AddsUpItsParts) {
  MemoryPlan plan;
  plan.weights_bytes = 1'000'000;
  plan.activation_bytes = 50'000;
  plan.kv_fixed_bytes = 7'000;
  plan.kv_bytes_per_token = 300;
  plan.kv_page_bytes = 20;
  EXPECT_EQ(plan.KvBytes(0), 7'000u) << "without tokens no pages are taken";
  EXPECT_EQ(plan.KvBytes(1), 7'320u);
  EXPECT_EQ(plan.KvBytes(10), 10'020u);
  plan.snapshot_every = 5;
  plan.snapshot_bytes_each = 10'000;
  EXPECT_EQ(plan.KvBytes(4), 8'220u);
  EXPECT_EQ(plan.KvBytes(5), 18'520u);
  EXPECT_EQ(plan.KvBytes(14), 31'220u);
  EXPECT_EQ(plan.TotalBytes(14), 1'081'220u);
}

TEST(MemoryPlan, FindsTheLongestContextThatFits) {
  MemoryPlan plan;
  plan.weights_bytes = 1000;
  plan.kv_fixed_bytes = 100;
  plan.kv_bytes_per_token = 3;
  plan.snapshot_every = 7;
  plan.snapshot_bytes_each = 11;
  for (const int64_t n : {0, 1, 2, 6, 7, 8, 1000, 123456}) {
    EXPECT_EQ(plan.MaxContext(plan.TotalBytes(n)), n);
    EXPECT_EQ(plan.MaxContext(plan.TotalBytes(n + 1) - 1), n);
  }
  EXPECT_EQ(plan.MaxContext(1099), 0) << "not even the fixed parts fit";
  EXPECT_EQ(plan.MaxContext(0), 0);
  plan.kv_bytes_per_token = 0;
  plan.snapshot_every = 0;
  EXPECT_EQ(plan.MaxContext(1100), int64_t{1} << 36)
      << "streaming heads alone: the largest number of tokens that MaxContext gives";
}

TEST(MemoryPlan, CountsWhatTheRoomsCount) {
  const BackendPtr backend = CreateBackend({.device = Device::kCpu, .n_threads = 2}).value();
  SessionOptions options = {.heads = HalfOfThem(), .sink = 4, .recent = 20, .chunk = 64};
  options.kv_type = KvType::kF32;
  const MemoryPlan plan = PlanMemory(TinyConfig(), 12345, options, *backend).value();
  EXPECT_EQ(plan.weights_bytes, 12345u);
  EXPECT_EQ(plan.kv_bytes_per_token, 3u * 2 * 16 * 4);
  EXPECT_EQ(plan.kv_fixed_bytes, 3u * 2 * 24 * 16 * 4);
  EXPECT_EQ(plan.kv_page_bytes, 0u);
  EXPECT_EQ(plan.snapshot_every, 0);
  EXPECT_EQ(plan.snapshot_bytes_each, 0u);
  // Floats per token: x and normed 48, q and attended 64, k and v 32, gate and up 80. In addition 16 rows of 97 logits.
  const uint64_t activations = (64 * (2 * 48 + 2 * 64 + 2 * 32 + 2 * 80) + 16 * 97) * 4;
  EXPECT_GE(plan.activation_bytes, activations + plan.scratch_bytes);
  EXPECT_LT(plan.activation_bytes, activations + plan.scratch_bytes + (1 << 20)) << "attention's scratch is small";
  options.snapshot_every = 10;
  const MemoryPlan snapshots = PlanMemory(TinyConfig(), 0, options, *backend).value();
  EXPECT_EQ(snapshots.snapshot_every, 10);
  EXPECT_EQ(snapshots.snapshot_bytes_each, 3u * 2 * 20 * 16 * 4);
  options.recent = 0;
  EXPECT_EQ(PlanMemory(TinyConfig(), 0, options, *backend).status().code(), StatusCode::kInvalidArgument);
  options = {.heads = {}, .chunk = 0};
  EXPECT_EQ(PlanMemory(TinyConfig(), 0, options, *backend).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace duo
