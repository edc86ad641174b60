// A fixture for tests of sessions.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "duo/session.h"
#include "model/tiny_config_for_test.h"

namespace duo {

/// Sessions of a random model of three layers, and a prompt of 150 tokens.
class SessionTest : public testing::Test {
 protected:
  void SetUp() override {
    auto backend = CreateBackend({.device = Device::kCpu, .n_threads = 2});
    ASSERT_TRUE(backend.ok()) << backend.status().message();
    backend_ = std::move(*backend);
    auto model = Model::Random(TinyConfig(), 0, 5, backend_.get());
    ASSERT_TRUE(model.ok()) << model.status().message();
    model_.emplace(std::move(*model));
    Rng rng(11);
    for (int i = 0; i < 150; ++i) prompt_.push_back(rng.Below(97));
  }

  static SessionOptions Exact() {
    SessionOptions options;
    options.compute = ComputeType::kF32;
    options.kv_type = KvType::kF32;
    options.sink = 4;
    options.recent = 20;
    return options;
  }
  static SessionOptions Split() {
    SessionOptions options = Exact();
    options.heads = {.n_layers = 3, .n_kv_heads = 2, .retrieval = {1, 0, 0, 0, 0, 1}};
    return options;
  }
  Session Make(const SessionOptions& options) {
    auto session = Session::Create(*model_, options);
    EXPECT_TRUE(session.ok()) << session.status().message();
    return std::move(*session);
  }
  std::vector<float> LogitsAfterPrompt(const SessionOptions& options) {
    Session session = Make(options);
    EXPECT_TRUE(session.Prefill(prompt_).ok());
    return {session.logits().begin(), session.logits().end()};
  }
  static void ExpectSame(std::span<const float> a, std::span<const float> b) {
    ASSERT_EQ(a.size(), b.size());
    ASSERT_FALSE(a.empty());
    float largest = 0, worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      largest = std::max(largest, std::fabs(a[i]));
      worst = std::max(worst, std::isnan(a[i] - b[i]) ? INFINITY : std::fabs(a[i] - b[i]));
    }
    EXPECT_LE(worst, 2e-5f * largest);
  }
  static float Distance(std::span<const float> a, std::span<const float> b) {
    float worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::fabs(a[i] - b[i]));
    return worst;
  }

  BackendPtr backend_;
  std::optional<Model> model_;
  std::vector<int32_t> prompt_;
};

}  // namespace duo
