// Tests that f32 answers do not depend on what is cached or runs beside them.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/serving_for_test.h"

namespace duo {
namespace {

/// With f32 an answer's numbers are the same to the last bit, whatever is in memory and whatever runs beside it. There
/// are two threads, so that work could be split differently.
class ExactTest : public SchedulerTest {
 protected:
  void SetUp() override {
    Open(2);
    options_.chunk = 512;
    options_.snapshot_every = 96;
    workspace_.emplace(Workspace::Create(*model_, options_).value());
  }
  struct Answer {
    std::vector<int32_t> tokens;
    std::vector<double> log_probs;
    int64_t n_cached = 0;
    bool operator==(const Answer& other) const { return tokens == other.tokens && log_probs == other.log_probs; }
  };
  JobRequest Scored(std::vector<int32_t> prompt, int64_t max_tokens) const {
    JobRequest request = Request(std::move(prompt), max_tokens);
    request.n_log_probs = 3;
    return request;
  }
  static Answer AnswerOf(const std::shared_ptr<Job>& job) {
    const Outcome outcome = Finish(job);
    EXPECT_TRUE(outcome.last.status.ok()) << outcome.last.status.message();
    return {outcome.tokens, outcome.log_probs, outcome.last.stats.n_cached};
  }
  /// The answer of a server that has nothing in memory.
  Answer Cold(const JobRequest& request) {
    Start();
    return AnswerOf(Submit(request));
  }
};

TEST_F(ExactTest, WhateverPrefixIsCached) {
  const std::vector<int32_t> text = Prompt(1, 330);
  const JobRequest request = Scored(text, 6);
  const Answer cold = Cold(request);
  ASSERT_EQ(cold.log_probs.size(), 6u * 4);
  bool reused = false;
  for (int64_t n = 1; n < 330; n += 1) {
    Start();
    // The sequence in memory has the prefix, then another text or none, then generated tokens.
    const auto begin = std::vector<int32_t>(text.begin(), text.begin() + n);
    AnswerOf(Submit(Request(n % 2 == 0 ? begin : Joined(begin, Prompt(static_cast<uint64_t>(n), 150)), 3)));
    const Answer warm = AnswerOf(Submit(request));
    ASSERT_EQ(warm, cold) << n << " tokens were in memory, " << warm.n_cached << " were reused";
    reused = reused || warm.n_cached > 0;
    ASSERT_GE(warm.n_cached, n < 192 ? 0 : 192) << "the shared chunks are not read again";
  }
  EXPECT_TRUE(reused);
}

TEST_F(ExactTest, WhenTheAnswerIsAskedAboutAgain) {
  const std::vector<int32_t> text = Prompt(1, 200);
  Start();
  const Answer first = AnswerOf(Submit(Scored(text, 100)));
  for (const std::string name : {"", "tale"}) {
    JobRequest next = Scored(Joined(Joined(text, first.tokens), Prompt(2, 30)), 6);
    next.session_id.name = name;
    const Answer warm = AnswerOf(Submit(next));
    EXPECT_GE(warm.n_cached, name.empty() ? 192 : 0);
    EXPECT_EQ(AnswerOf(Submit(next)), warm) << "asked again, with the whole prompt in memory";
    next.reuse = false;
    const Answer fresh = AnswerOf(Submit(next));
    EXPECT_EQ(fresh.n_cached, 0);
    EXPECT_EQ(fresh, warm);
  }
}

TEST_F(ExactTest, WhoeverRunsBeside) {
  const JobRequest request = Scored(Prompt(1, 900), 12);
  const Answer cold = Cold(request);
  for (const int n_others : {1, 4, 15}) {
    Start(16);
    std::vector<JobRequest> requests;
    for (int i = 0; i < n_others; ++i) {
      requests.push_back(Request(Prompt(static_cast<uint64_t>(2 + i), 10 + 170 * i), 3 + 5 * i));
      if (i % 3 == 2) requests.back().session.heads = AllRetrieval(3, 2);
    }
    requests.insert(requests.begin() + n_others / 2, request);
    const auto jobs = scheduler_->SubmitAll(requests).value();
    EXPECT_EQ(AnswerOf(jobs[n_others / 2]), cold) << n_others;
  }
}

TEST_F(ExactTest, FromAFreshOneOnRequest) {
  Start();
  const JobRequest request = Request(Prompt(1, 300), 2);
  AnswerOf(Submit(request));
  JobRequest fresh = request;
  fresh.reuse = false;
  EXPECT_EQ(AnswerOf(Submit(fresh)).n_cached, 0);
  EXPECT_GT(AnswerOf(Submit(request)).n_cached, 0);
}

}  // namespace
}  // namespace duo
