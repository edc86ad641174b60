// A tiny model for tests of the pool and the scheduler.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "base/rng.h"
#include "duo/session.h"
#include "model/tiny_config_for_test.h"
#include "server/scheduler.h"

namespace duo {

/// A tiny random model without a tokenizer: requests consist of tokens.
class ServingTest : public testing::Test {
 protected:
  void SetUp() override { Open(1); }
  void Open(int n_threads) {
    backend_ = CreateBackend({.device = Device::kCpu, .n_threads = n_threads}).value();
    model_.emplace(Model::Random(TinyConfig(), 0, 5, backend_.get()).value());
    SessionOptions options;
    options.heads = {.n_layers = 3, .n_kv_heads = 2, .retrieval = {1, 0, 0, 0, 0, 1}};
    options.compute = ComputeType::kF32;
    options.kv_type = KvType::kF32;
    options.sink = 4;
    options.recent = 20;
    options.snapshot_every = 32;
    options.chunk = 32;
    options.max_context = int64_t{1} << 20;
    options_ = ResolveOptions(model_->config(), options).value();
    workspace_.emplace(Workspace::Create(*model_, options_).value());
    plan_ = PlanMemory(model_->config(), 0, options_, *backend_).value();
  }

  static std::vector<int32_t> Prompt(uint64_t seed, int n) {
    Rng rng(seed);
    std::vector<int32_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(rng.Below(97)));
    return ids;
  }
  static std::vector<int32_t> Joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  JobRequest Request(std::vector<int32_t> prompt, int64_t max_tokens) const {
    JobRequest request;
    request.prompt = std::move(prompt);
    request.generate.max_tokens = max_tokens;
    request.generate.ignore_eos = true;
    request.session = options_;
    return request;
  }
  /// The tokens that the request generates in a session of its own, without a scheduler.
  std::vector<int32_t> Alone(const JobRequest& request) {
    Session session = Session::Create(*model_, request.session).value();
    GenerateOptions options = request.generate;
    return Generate(&session, *model_, nullptr, request.prompt, options).value().tokens;
  }
  PoolLimits Limits(int64_t n_tokens, size_t n_sequences = 100) const {
    return {
        .budget_bytes = BytesFor(n_tokens), .workspace_bytes = plan_.activation_bytes, .max_sequences = n_sequences};
  }
  uint64_t BytesFor(int64_t n_tokens) const {
    return plan_.KvBytes(n_tokens) + 4 * uint64_t{97} + 5 * static_cast<uint64_t>(n_tokens);
  }
  PoolLimits Roomy() const { return Limits(int64_t{1} << 20); }
  PoolLimits RoomFor(uint64_t n_sequences, int64_t n_tokens) const {
    PoolLimits limits = Limits(0);
    limits.budget_bytes = n_sequences * BytesFor(n_tokens);
    return limits;
  }

  BackendPtr backend_;
  std::optional<Model> model_;
  SessionOptions options_;
  std::optional<Workspace> workspace_;
  MemoryPlan plan_;
};

struct Outcome {
  std::vector<int32_t> tokens;
  std::vector<double> log_probs;  // of each token and of the alternatives reported with it
  Job::News last;
};

inline Outcome Finish(const std::shared_ptr<Job>& job) {
  Outcome outcome;
  do {
    outcome.last = job->Take(1);
    for (const JobToken& token : outcome.last.tokens) {
      outcome.tokens.push_back(token.id);
      if (!token.log_probs) continue;
      outcome.log_probs.push_back(token.log_probs->chosen.log_prob);
      for (const TokenLogProb& other : token.log_probs->top) {
        outcome.log_probs.push_back(other.log_prob);
      }
    }
  } while (!outcome.last.finished);
  return outcome;
}

class SchedulerTest : public ServingTest {
 protected:
  void Start(int max_running = 8, int max_waiting = 64, std::optional<PoolLimits> limits = {}) {
    scheduler_.emplace(&*model_, nullptr, &*workspace_, &metrics_, &threads_,
                       SchedulerOptions{.max_running = max_running, .max_waiting = max_waiting},
                       limits.value_or(Roomy()));
  }
  std::shared_ptr<Job> Submit(JobRequest request) {
    auto job = scheduler_->Submit(std::move(request));
    EXPECT_TRUE(job.ok()) << job.status().message();
    return *job;
  }
  Metrics metrics_;
  WorkerThreads threads_;
  std::optional<Scheduler> scheduler_;
};

}  // namespace duo
