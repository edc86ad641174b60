// Tests of the sequences over one model (sharing, reservation, reuse, eviction) and of the order of work.
#include "server/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "model/weights.h"
#include "server/serving_for_test.h"
#include "server/unavailable.h"

namespace duo {
namespace {

const Caller kEverything = {.owner = "", .sees_all = true};

/// Like ServingTest, but the hidden states of token 7 are NaN.
class BrokenTokenTest : public ServingTest {
 protected:
  static constexpr int32_t kBadToken = 7;
  void SetUp() override {
    ServingTest::SetUp();
    const MatrixView& embedding = model_->weights().embedding;
    auto* rows = static_cast<bf16*>(
        const_cast<void*>(embedding.data));  // a random model's weights are this process's own memory
    rows[kBadToken * embedding.n_in] = ToBf16(std::nanf(""));
  }
  static std::vector<int32_t> Good(std::vector<int32_t> prompt) {
    std::replace(prompt.begin(), prompt.end(), kBadToken, 8);
    return prompt;
  }
};

TEST_F(BrokenTokenTest, OnlyTheRequestWithoutLogitsFails) {
  Metrics metrics;
  WorkerThreads threads;
  Scheduler scheduler(&*model_, nullptr, &*workspace_, &metrics, &threads, {.max_running = 4, .max_waiting = 8},
                      Roomy());
  JobRequest bad_answer = Request(Good(Prompt(2, 20)), 30);
  JobRequest first = Request(Good(Prompt(1, 40)), 30), second = Request(Good(Prompt(3, 33)), 30);
  // A bias keeps the others from choosing the token, and makes one request choose it.
  for (JobRequest* request : {&first, &second}) request->generate.sampler.bias = {{kBadToken, -100.0f}};
  bad_answer.generate.sampler.bias = {{kBadToken, 100.0f}};
  const std::vector<int32_t> expected_first = Alone(first), expected_second = Alone(second);
  const auto a = scheduler.Submit(first).value();
  const auto b = scheduler.Submit(bad_answer).value();
  const auto c = scheduler.Submit(second).value();
  const auto d = scheduler.Submit(Request({1, kBadToken, 2}, 5)).value();
  const Outcome bad = Finish(b), bad_prompt = Finish(d);
  EXPECT_EQ(bad.last.status.code(), StatusCode::kInternal);
  EXPECT_EQ(bad_prompt.last.status.code(), StatusCode::kInternal);
  EXPECT_NE(bad.last.status.message().find("NaN or infinite"), std::string::npos) << bad.last.status.message();
  EXPECT_EQ(Finish(a).tokens, expected_first);
  EXPECT_EQ(Finish(c).tokens, expected_second);
}

/// Without f32, which reuses sequences only in whole pieces (exact_answers_test.cc).
class PoolTest : public ServingTest {
 protected:
  void SetUp() override {
    ServingTest::SetUp();
    options_.compute = ComputeType::kBF16;
    workspace_.emplace(Workspace::Create(*model_, options_).value());
    plan_ = PlanMemory(model_->config(), 0, options_, *backend_).value();
  }
  SequencePool Pool(const PoolLimits& limits) { return SequencePool(*model_, &*workspace_, limits); }
  SequencePool::Wanted Wanted(const std::vector<int32_t>& prompt, int64_t more, const std::string& name = "") const {
    return {.prompt = prompt,
            .n_tokens = static_cast<int64_t>(prompt.size()) + more,
            .spec = &spec_,
            .options = &options_,
            .id = {.owner = "", .name = name},
            .fresh = false};
  }
  /// Claims a sequence and reads the rest of the prompt. Returns how many tokens were reused.
  int64_t RunOne(SequencePool* pool, const std::vector<int32_t>& prompt, const std::string& name = "") {
    const auto claim = pool->Acquire(Wanted(prompt, 4, name));
    EXPECT_TRUE(claim.ok()) << claim.status().message();
    if (!claim.ok()) return -1;
    EXPECT_EQ(claim->sequence->session->len(), claim->n_held);
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.begin() + claim->n_held, claim->sequence->session->tokens().begin()));
    const auto rest = std::span<const int32_t>(prompt).subspan(static_cast<size_t>(claim->n_held));
    EXPECT_TRUE(claim->sequence->session->Prefill(rest).ok());
    pool->Release(claim->sequence);
    return claim->n_held;
  }
  CacheSpec spec_;
};

TEST_F(PoolTest, GoesOnFromTheLongestPrefix) {
  SequencePool pool = Pool(Roomy());
  const std::vector<int32_t> text = Prompt(1, 200);
  EXPECT_EQ(RunOne(&pool, Joined(text, {1, 2, 3})), 0);
  EXPECT_EQ(RunOne(&pool, Prompt(2, 50)), 0);
  EXPECT_EQ(RunOne(&pool, Joined(text, {4, 5})), 192) << "the last snapshot before the texts differ";
  EXPECT_EQ(pool.sequences().size(), 2u) << "the first was taken over";
  EXPECT_EQ(RunOne(&pool, Joined(text, {4, 5})), 201)
      << "the same text: only its last token is run again, for its logits";
  EXPECT_EQ(RunOne(&pool, {text.begin(), text.begin() + 100}), 96)
      << "a copy, because half of the sequence would be lost";
  EXPECT_EQ(pool.sequences().size(), 3u);
  EXPECT_EQ(RunOne(&pool, Joined(text, {9})), 192) << "the long sequence still exists";
}

TEST_F(PoolTest, OtherWindowsDoNotMix) {
  SequencePool pool = Pool(Roomy());
  const std::vector<int32_t> text = Prompt(1, 100);
  RunOne(&pool, text);
  SessionOptions other = options_;
  other.recent = other.prefill_recent = 21;
  SequencePool::Wanted wanted = Wanted(text, 4);
  wanted.options = &other;
  EXPECT_EQ(pool.Acquire(wanted)->n_held, 0);
  wanted = Wanted(text, 4);
  wanted.fresh = true;
  EXPECT_EQ(pool.Acquire(wanted)->n_held, 0);
}

TEST_F(PoolTest, ARunningSequenceIsCopied) {
  SequencePool pool = Pool(Roomy());
  const std::vector<int32_t> text = Prompt(1, 150);
  const auto first = pool.Acquire(Wanted(text, 4));
  ASSERT_TRUE(first.ok() && first->sequence->session->Prefill(text).ok());
  const auto second = pool.Acquire(Wanted(Joined(text, {1}), 4));
  ASSERT_TRUE(second.ok());
  EXPECT_NE(second->sequence, first->sequence);
  EXPECT_EQ(second->n_held, 150) << "its rings end where the texts differ";
  EXPECT_EQ(first->sequence->session->len(), 150);
}

TEST_F(PoolTest, GivesUpWhatWasUsedLongestAgo) {
  SequencePool pool = Pool(RoomFor(3, 110));
  const std::vector<int32_t> a = Prompt(1, 100), b = Prompt(2, 100), c = Prompt(3, 100), d = Prompt(4, 100);
  RunOne(&pool, a), RunOne(&pool, b), RunOne(&pool, c);
  const size_t n = pool.sequences().size();
  EXPECT_GT(RunOne(&pool, a), 0) << "a is used again";
  RunOne(&pool, d);
  EXPECT_LE(pool.sequences().size(), n);
  EXPECT_GT(pool.n_evicted(), 0u);
  EXPECT_LE(pool.promised_bytes() + pool.kept_bytes(), pool.budget_bytes());
  EXPECT_GT(RunOne(&pool, a), 0) << "b was evicted, not a";
}

TEST_F(PoolTest, NamesAreKeptLongest) {
  SequencePool pool = Pool(RoomFor(2, 110));
  RunOne(&pool, Prompt(1, 100), "tale");
  RunOne(&pool, Prompt(2, 100));
  RunOne(&pool, Prompt(3, 100));
  EXPECT_TRUE(pool.Has({"", "tale"}));
  EXPECT_GT(RunOne(&pool, Joined(Prompt(1, 100), {1}), "tale"), 0);
}

TEST_F(PoolTest, MemoryIsPromised) {
  SequencePool pool = Pool(Limits(250));
  EXPECT_TRUE(pool.CheckEverFits(options_, 250).ok());
  const Status never = pool.CheckEverFits(options_, 251);
  EXPECT_EQ(never.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(never.message().find("251 tokens need"), std::string::npos) << never.message();
  const std::vector<int32_t> a = Prompt(1, 100), b = Prompt(2, 100);
  const auto first = pool.Acquire(Wanted(a, 100));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(WhyUnavailable(pool.Acquire(Wanted(b, 100)).status()), Unavailable::kNoMemory)
      << "the running sequence holds its reservation";
  ASSERT_TRUE(first->sequence->session->Prefill(a).ok());
  pool.Release(first->sequence);
  EXPECT_TRUE(pool.Acquire(Wanted(b, 100)).ok()) << "the idle sequence was evicted";
  EXPECT_EQ(pool.n_evicted(), 1u);
}

// With windows larger than the server's, the workspace grows by the max need of the running sequences while they run.
TEST_F(PoolTest, WhatTheWorkspaceGrowsByIsGivenBack) {
  SessionOptions large = options_, larger = options_;
  large.recent = large.prefill_recent = 5000;
  larger.recent = larger.prefill_recent = 9000;
  const auto growth_of = [&](const SessionOptions& options) {
    return PlanMemory(model_->config(), 0, options, *backend_)->activation_bytes - plan_.activation_bytes;
  };
  ASSERT_GT(growth_of(large), 0u);
  SequencePool pool = Pool(Roomy());
  const uint64_t budget = pool.budget_bytes();
  const std::vector<int32_t> a = Prompt(1, 100), b = Prompt(2, 100);
  SequencePool::Wanted wanted = Wanted(a, 4), other = Wanted(b, 4);
  wanted.options = &large;
  other.options = &larger;
  const auto first = pool.Acquire(wanted), second = pool.Acquire(other);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(pool.growth_bytes(), growth_of(larger)) << "they run one after the other";
  ASSERT_TRUE(first->sequence->session->Prefill(a).ok());
  ASSERT_TRUE(second->sequence->session->Prefill(b).ok());
  pool.Release(second->sequence);
  EXPECT_EQ(pool.growth_bytes(), growth_of(large));
  ASSERT_TRUE(first->sequence->session->Prefill(b).ok()) << "the workspace grows again for the other one";
  pool.Drop(first->sequence);
  EXPECT_EQ(pool.growth_bytes(), 0u);
  EXPECT_EQ(pool.budget_bytes(), budget);
  EXPECT_GT(RunOne(&pool, Joined(a, {1})) + 1, 0) << "the server's own windows need no growth";
  EXPECT_EQ(pool.growth_bytes(), 0u);
}

TEST_F(PoolTest, TheGrowthIsPromisedToo) {
  SessionOptions large = options_;
  large.recent = large.prefill_recent = 5000;
  const MemoryPlan plan = PlanMemory(model_->config(), 0, large, *backend_).value();
  const uint64_t growth = plan.activation_bytes - plan_.activation_bytes;
  const uint64_t bytes = plan.KvBytes(110) + BytesFor(110) - plan_.KvBytes(110);
  PoolLimits limits = Limits(110);
  limits.budget_bytes = bytes + growth - 1;
  EXPECT_EQ(Pool(limits).CheckEverFits(large, 110).code(), StatusCode::kResourceExhausted);
  limits.budget_bytes = bytes + growth + BytesFor(110);
  SequencePool pool = Pool(limits);
  EXPECT_TRUE(pool.CheckEverFits(large, 110).ok());
  const std::vector<int32_t> a = Prompt(1, 100), b = Prompt(2, 100), c = Prompt(3, 100);
  SequencePool::Wanted wanted = Wanted(a, 10);
  wanted.options = &large;
  const auto first = pool.Acquire(Wanted(b, 10));
  const auto second = pool.Acquire(wanted);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(pool.Acquire(Wanted(c, 10)).status().code(), StatusCode::kUnavailable);
  const uint64_t before = pool.n_freed();
  ASSERT_TRUE(second->sequence->session->Prefill(a).ok());
  pool.Release(second->sequence);
  EXPECT_NE(pool.n_freed(), before);
  EXPECT_TRUE(pool.Acquire(Wanted(c, 10)).ok());
}

TEST_F(PoolTest, NamedSessionsHaveOneOwnerAtATime) {
  SequencePool pool = Pool(Roomy());
  const std::vector<int32_t> text = Prompt(1, 100);
  RunOne(&pool, text, "tale");
  const auto claim = pool.Acquire(Wanted(text, 4, "tale"));
  ASSERT_TRUE(claim.ok());
  EXPECT_EQ(WhyUnavailable(pool.Acquire(Wanted(text, 4, "tale")).status()), Unavailable::kSessionBusy);
  EXPECT_EQ(WhyUnavailable(pool.CheckOut({.owner = "", .name = "tale"}).status()), Unavailable::kSessionBusy);
  EXPECT_EQ(pool.CheckOut({.owner = "", .name = "other"}).status().code(), StatusCode::kNotFound);
  pool.Release(claim->sequence);
  SessionOptions other = options_;
  other.sink = 5;
  SequencePool::Wanted wanted = Wanted(text, 4, "tale");
  wanted.options = &other;
  EXPECT_EQ(pool.Acquire(wanted).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RunOne(&pool, Prompt(9, 40), "tale"), 0) << "another text under the same name has no common prefix";
  EXPECT_EQ(RunOne(&pool, Joined(text, {1})), 0) << "the old text is gone";
  EXPECT_EQ(pool.Reserve({.owner = "", .name = "tale"}, spec_, options_, 10).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(pool.CheckOut({.owner = "", .name = "tale"}).ok());
}

TEST_F(PoolTest, NothingIsSharedBetweenOwnersOrSalts) {
  const std::vector<int32_t> text = Prompt(1, 200);
  const auto held = [&](SequencePool* pool, const SessionId& id, const std::string& salt) {
    CacheSpec spec = spec_;
    spec.salt = salt;
    SequencePool::Wanted wanted = Wanted(text, 4);
    wanted.id = id;
    wanted.spec = &spec;
    const auto claim = pool->Acquire(wanted);
    EXPECT_TRUE(claim.ok()) << claim.status().message();
    if (!claim.ok()) return int64_t{-1};
    const auto rest = std::span<const int32_t>(text).subspan(static_cast<size_t>(claim->n_held));
    EXPECT_TRUE(claim->sequence->session->Prefill(rest).ok());
    pool->Release(claim->sequence);
    return claim->n_held;
  };
  SequencePool pool = Pool(Roomy());
  EXPECT_EQ(held(&pool, {"anna", ""}, ""), 0);
  EXPECT_GT(held(&pool, {"anna", ""}, ""), 0);
  EXPECT_EQ(held(&pool, {"ben", ""}, ""), 0) << "ben does not find what anna asked";
  EXPECT_EQ(held(&pool, {"anna", ""}, "s"), 0) << "a salted request does not find it either";
  EXPECT_GT(held(&pool, {"anna", ""}, "s"), 0);
  EXPECT_EQ(held(&pool, {"ben", ""}, "s"), 0);
  // The same holds for named sequences: for their copies, and for sessions of the same name.
  EXPECT_GT(held(&pool, {"anna", "tale"}, ""), 0);
  EXPECT_GT(held(&pool, {"anna", "tale"}, ""), 0);
  EXPECT_EQ(held(&pool, {"carl", "tale"}, ""), 0) << "another owner's session of that name";
  EXPECT_TRUE(pool.Has({"anna", "tale"}) && pool.Has({"carl", "tale"}) && !pool.Has({"ben", "tale"}));
  EXPECT_EQ(pool.CheckOut({"ben", "tale"}).status().code(), StatusCode::kNotFound);
  CacheSpec salted = spec_;
  salted.salt = "s";
  SequencePool::Wanted wanted = Wanted(text, 4);
  wanted.id = {"anna", "tale"};
  wanted.spec = &salted;
  EXPECT_EQ(pool.Acquire(wanted).status().code(), StatusCode::kInvalidArgument)
      << "the session was started without a salt";
  EXPECT_EQ(pool.kept_bytes({.owner = "anna"}) + pool.kept_bytes({.owner = "ben"}) + pool.kept_bytes({.owner = "carl"}),
            pool.kept_bytes());
  EXPECT_EQ(pool.kept_bytes({.owner = "nobody"}), 0u);
}

TEST_F(SchedulerTest, ManyTogetherGiveWhatEachGivesAlone) {
  Start(16);
  std::vector<JobRequest> requests;
  for (int i = 0; i < 24; ++i) {
    JobRequest request = Request(Prompt(static_cast<uint64_t>(i % 7), 10 + 13 * i), 5 + 3 * (i % 9));
    request.generate.sampler = {.temperature = i % 2 == 0 ? 0.0 : 0.8, .seed = static_cast<uint64_t>(i)};
    if (i % 5 == 4) request.session.heads = AllRetrieval(3, 2);
    requests.push_back(request);
  }
  std::vector<std::vector<int32_t>> expected;  // computed first: the backend serves one thread at a time
  for (const JobRequest& request : requests) expected.push_back(Alone(request));
  std::vector<std::shared_ptr<Job>> jobs;
  for (const JobRequest& request : requests) jobs.push_back(Submit(request));
  for (size_t i = 0; i < jobs.size(); ++i) {
    const Outcome outcome = Finish(jobs[i]);
    ASSERT_TRUE(outcome.last.status.ok()) << outcome.last.status.message();
    EXPECT_EQ(outcome.tokens, expected[i]) << i;
    EXPECT_EQ(outcome.last.stats.n_generated, requests[i].generate.max_tokens);
    EXPECT_EQ(outcome.last.stats.finish, FinishReason::kMaxTokens);
  }
}

TEST_F(SchedulerTest, AReusedPrefixChangesNothing) {
  Start();
  const std::vector<int32_t> text = Prompt(1, 300);
  int64_t cached = 0;
  for (const std::vector<int32_t>& end : {std::vector<int32_t>{1, 2}, {3}, {4, 5, 6}}) {
    const JobRequest request = Request(Joined(text, end), 12);
    const Outcome outcome = Finish(Submit(request));
    EXPECT_EQ(outcome.tokens, Alone(request));
    EXPECT_EQ(outcome.last.stats.n_cached, cached);
    cached = 288;
  }
  const JobRequest edited = Request(Joined({text.begin(), text.begin() + 150}, Prompt(5, 60)), 12);
  const Outcome outcome = Finish(Submit(edited));
  EXPECT_EQ(outcome.tokens, Alone(edited));
  EXPECT_EQ(outcome.last.stats.n_cached, 128) << "an edit in the middle of the text";
}

TEST_F(SchedulerTest, PromptsAreScoredOnRequest) {
  Start();
  JobRequest request = Request(Prompt(1, 70), 2);
  request.n_log_probs = 3;
  request.prompt_log_probs = true;
  Finish(Submit(request));
  const auto job = Submit(request);
  std::vector<std::optional<LogProbs>> scored;
  std::vector<JobToken> tokens;
  Job::News news;
  do {
    news = job->Take(1);
    for (auto& entry : news.prompt_log_probs) scored.push_back(entry);
    for (auto& token : news.tokens) tokens.push_back(token);
  } while (!news.finished);
  EXPECT_EQ(news.stats.n_cached, 0) << "every position must be scored";
  ASSERT_EQ(scored.size(), 70u);
  EXPECT_FALSE(scored[0].has_value());
  Session session = Session::Create(*model_, options_).value();
  std::vector<std::vector<float>> rows;
  ASSERT_TRUE(session
                  .PrefillWithLogits(request.prompt, 0, 70,
                                     [&](int64_t, std::span<const float> row) {
                                       rows.emplace_back(row.begin(), row.end());
                                       return OkStatus();
                                     })
                  .ok());
  for (size_t i = 1; i < 70; ++i) {
    const LogProbs expected = LogProbsOf(rows[i - 1], request.prompt[i], 3);
    EXPECT_EQ(scored[i]->chosen.id, request.prompt[i]);
    EXPECT_NEAR(scored[i]->chosen.log_prob, expected.chosen.log_prob, 1e-4);
    EXPECT_EQ(scored[i]->top.size(), 3u);
  }
  ASSERT_EQ(tokens.size(), 2u);
  EXPECT_EQ(tokens[0].log_probs->top[0].id, tokens[0].id) << "greedy";
}

TEST_F(SchedulerTest, NothingIsGeneratedWhereNothingIsAsked) {
  Start();
  const Outcome outcome = Finish(Submit(Request(Prompt(1, 40), 0)));
  EXPECT_TRUE(outcome.tokens.empty());
  EXPECT_EQ(outcome.last.prompt_done, 40);
  EXPECT_EQ(outcome.last.stats.finish, FinishReason::kMaxTokens);
}

TEST_F(SchedulerTest, CancelledRequestsEndAndTheirPrefixStays) {
  Start();
  const auto job = Submit(Request(Prompt(1, 64), 1000000));
  while (job->Take(1).tokens.empty()) {
  }
  job->Cancel();
  const Outcome outcome = Finish(job);
  EXPECT_EQ(outcome.last.status.code(), StatusCode::kCancelled);
  EXPECT_LT(outcome.last.stats.n_generated, 1000000);
  EXPECT_EQ(Finish(Submit(Request(Joined(Prompt(1, 64), {1}), 1))).last.stats.n_cached, 64);
}

TEST_F(SchedulerTest, TheQueueIsBoundedAndInOrder) {
  Start(1, 3);
  const auto running = Submit(Request(Prompt(1, 10), 1000000));
  while (running->Take(1).tokens.empty()) {
  }
  std::vector<std::shared_ptr<Job>> waiting;
  for (int i = 0; i < 3; ++i) waiting.push_back(Submit(Request(Prompt(2, 10), 1)));
  const auto refused = scheduler_->Submit(Request(Prompt(3, 10), 1));
  EXPECT_EQ(WhyUnavailable(refused.status()), Unavailable::kQueueFull);
  EXPECT_FALSE(scheduler_->stopping());
  EXPECT_EQ(scheduler_->n_waiting(), 3);
  waiting[1]->Cancel();
  running->Cancel();
  EXPECT_TRUE(Finish(waiting[0]).last.status.ok());
  EXPECT_EQ(Finish(waiting[1]).last.status.code(), StatusCode::kCancelled);
  EXPECT_TRUE(Finish(waiting[2]).last.status.ok());
  EXPECT_GE(waiting[2]->Take(0).stats.queue_s, waiting[0]->Take(0).stats.queue_s);
}

TEST_F(SchedulerTest, WhatCanNeverFitIsRefusedAtOnce) {
  Start(8, 64, Limits(100));
  const auto refused = scheduler_->Submit(Request(Prompt(1, 50), 51));
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(Finish(Submit(Request(Prompt(1, 50), 50))).last.status.ok());
  // These two fit only one after the other.
  const auto a = Submit(Request(Prompt(2, 50), 40)), b = Submit(Request(Prompt(3, 50), 40));
  EXPECT_TRUE(Finish(a).last.status.ok());
  EXPECT_TRUE(Finish(b).last.status.ok());
}

TEST_F(SchedulerTest, StoppingFinishesOrCancels) {
  Start();
  const auto shorter = Submit(Request(Prompt(1, 10), 20));
  scheduler_->Stop(600);
  EXPECT_TRUE(Finish(shorter).last.status.ok());
  EXPECT_TRUE(scheduler_->stopping());
  EXPECT_EQ(WhyUnavailable(scheduler_->Submit(Request(Prompt(1, 10), 1)).status()), Unavailable::kStopping);
  Start();
  const auto longer = Submit(Request(Prompt(1, 10), 1000000));
  scheduler_->Stop(0.05);
  EXPECT_EQ(WhyUnavailable(Finish(longer).last.status), Unavailable::kStopping)
      << "the server ended it, not its client";
}

TEST_F(SchedulerTest, CallersSeeTheirOwnAmongThoseThatWait) {
  Start(1);
  JobRequest first = Request(Prompt(1, 50), 1000000), second = Request(Prompt(2, 60), 1);
  first.session_id.owner = "anna";
  second.session_id.owner = "ben";
  const auto runs = Submit(std::move(first)), waits = Submit(std::move(second));
  while (scheduler_->n_waiting() != 1) std::this_thread::yield();
  for (const auto& [owner, n_waiting] : {std::pair("anna", 0), {"ben", 1}, {"carl", 0}}) {
    const SchedulerStatus status = scheduler_->Snapshot({.owner = owner});
    EXPECT_EQ(status.n_waiting, n_waiting) << owner;
    for (const SequenceStatus& sequence : status.sequences) EXPECT_EQ(sequence.session_id.owner, owner);
  }
  runs->Cancel();
  EXPECT_TRUE(Finish(waits).last.status.ok());
}

TEST_F(SchedulerTest, CallersSeeTheirOwn) {
  Start();
  for (const auto& [owner, n_tokens] : {std::pair<const char*, int64_t>{"anna", 3}, {"ben", 5}}) {
    JobRequest request = Request(Prompt(1, 50), n_tokens);
    request.session_id = {.owner = owner, .name = "tale"};
    Finish(Submit(std::move(request)));
  }
  for (const char* owner : {"anna", "ben"}) {
    const SchedulerStatus status = scheduler_->Snapshot({.owner = owner});
    ASSERT_EQ(status.sequences.size(), 1u);
    EXPECT_EQ(status.sequences[0].session_id, (SessionId{owner, "tale"}));
  }
  EXPECT_EQ(scheduler_->Snapshot({.owner = "anna", .sees_all = true}).sequences.size(), 2u);
  EXPECT_TRUE(scheduler_->Snapshot({.owner = "carl"}).sequences.empty());
  const auto has = [&](const Caller& caller, const std::string& line) {
    return ("\n" + metrics_.Text(caller, {})).find("\n" + line + "\n") != std::string::npos;
  };
  EXPECT_TRUE(has({.owner = "anna"}, "duo_generated_tokens_total 3"));
  EXPECT_TRUE(has({.owner = "ben"}, "duo_generated_tokens_total 5"));
  EXPECT_TRUE(has({.owner = "carl"}, "duo_generated_tokens_total 0"));
  EXPECT_TRUE(has(kEverything, "duo_generated_tokens_total 8"));
  EXPECT_TRUE(has(kEverything, "duo_resident_bytes 0"));
  EXPECT_FALSE(has({.owner = "anna"}, "duo_resident_bytes 0"));
  EXPECT_TRUE(has({.owner = "anna"}, "duo_decode_steps_total 2"));
  EXPECT_TRUE(has(kEverything, "duo_decode_steps_total 6"));
}

TEST_F(SchedulerTest, ClientsThatComeAndGo) {
  Start(4, 1000, RoomFor(6, 120));
  std::vector<std::thread> clients;
  std::atomic<int> wrong = 0;
  std::vector<JobRequest> requests;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(Request(Joined(Prompt(1, 40 * (i % 3)), Prompt(static_cast<uint64_t>(10 + i), 5 + i)), 4 + i));
    expected.push_back(Alone(requests.back()));
  }
  for (int c = 0; c < 4; ++c) {
    clients.emplace_back([&, c] {
      Rng rng(static_cast<uint64_t>(c));
      for (int i = 0; i < 15; ++i) {
        const size_t which = rng.Below(6);
        auto job = scheduler_->Submit(requests[which]);
        if (!job.ok()) continue;
        const bool leaves = rng.Below(3) == 0;
        if (leaves) {
          (*job)->Take(0.001);
          (*job)->Cancel();
        }
        const Outcome outcome = Finish(*job);
        if (!leaves && (!outcome.last.status.ok() || outcome.tokens != expected[which])) ++wrong;
        scheduler_->Snapshot(kEverything);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wrong, 0);
  const SchedulerStatus status = scheduler_->Snapshot(kEverything);
  EXPECT_EQ(status.promised_bytes, 0u);
  EXPECT_LE(status.kept_bytes, status.budget_bytes);
}

TEST(MetricsTest, PrometheusText) {
  Metrics metrics;
  metrics.CountResponse("anna", "/v1/completions", 200);
  metrics.CountResponse("anna", "/v1/completions", 200);
  metrics.CountPrompt("ben", 100, 60);
  metrics.AddTokenSeconds("anna", 0.0015);
  metrics.AddTokenSeconds("anna", 1e9);
  const std::string text = metrics.Text(kEverything, {});
  EXPECT_NE(text.find("duo_responses_total{route=\"/v1/completions\",status=\"200\"} 2\n"), std::string::npos);
  EXPECT_NE(text.find("duo_prompt_tokens_total 100\n"), std::string::npos);
  EXPECT_NE(text.find("duo_cached_tokens_total 60\n"), std::string::npos);
  EXPECT_NE(text.find("duo_token_seconds_bucket{le=\"0.001\"} 0\n"), std::string::npos);
  EXPECT_NE(text.find("duo_token_seconds_bucket{le=\"0.002\"} 1\n"), std::string::npos);
  EXPECT_NE(text.find("duo_token_seconds_bucket{le=\"+Inf\"} 2\n"), std::string::npos);
  EXPECT_NE(text.find("duo_token_seconds_count 2\n"), std::string::npos);
}

}  // namespace
}  // namespace duo
