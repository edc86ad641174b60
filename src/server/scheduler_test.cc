// Tests of the order of work.
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
  EXPECT_EQ(status.reserved_bytes, 0u);
  EXPECT_LE(status.idle_bytes, status.budget_bytes);
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
