// Tests of the order of requests: prompts take turns, and some requests pass one that waits for memory.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/prompt_turns.h"
#include "server/serving_for_test.h"

namespace duo {
namespace {

// A chat beside long documents begins at once, and the documents continue.
TEST_F(SchedulerTest, PromptsTakeTurns) {
  Start();
  std::vector<JobRequest> requests;
  requests.push_back(Request(Prompt(1, 9000), 1));
  requests.push_back(Request(Prompt(2, 6000), 1));
  requests.push_back(Request(Prompt(3, 20), 1));
  auto jobs = scheduler_->SubmitAll(std::move(requests)).value();
  EXPECT_LE(Finish(jobs[2]).last.stats.n_chunks_waited, 1);
  const int64_t second = Finish(jobs[1]).last.stats.n_chunks_waited;
  EXPECT_LE(second, 1 + (6000 / 32 + 1) / (kOldestEvery - 1) + 1)
      << "three of four chunks belong to the shorter prompt";
  EXPECT_GT(second, 6000 / 32 / kOldestEvery);
  EXPECT_EQ(Finish(jobs[0]).last.stats.n_chunks_waited, 6000 / 32 + 1 + 1) << "it waits for all chunks of the others";
}

TEST_F(SchedulerTest, ALongPromptGoesOnBesideManyShortOnes) {
  Start(4, 200);
  std::vector<JobRequest> requests;
  requests.push_back(Request(Prompt(1, 320), 1));
  for (uint64_t i = 0; i < 100; ++i) requests.push_back(Request(Prompt(2 + i, 20), 1));
  auto jobs = scheduler_->SubmitAll(std::move(requests)).value();
  EXPECT_LE(Finish(jobs[0]).last.stats.n_chunks_waited, 320 / 32 * kOldestEvery);
  for (const auto& job : jobs) EXPECT_TRUE(Finish(job).last.status.ok());
}

/// One request holds most of the memory for as long as the test needs, and another one waits for memory.
class OvertakingTest : public SchedulerTest {
 protected:
  static constexpr int64_t kEndless = 1000000;
  void StartFull(const std::string& name = "") {
    PoolLimits limits = RoomFor(2, 60);
    limits.budget_bytes += BytesFor(10 + kEndless);
    Start(8, 64, limits);
    holder_ = Submit(Request(Prompt(1, 10), kEndless));
    AwaitTokens(1);
    JobRequest large = Request(Prompt(2, 10), 600);
    large.session_id.name = name;
    large_ = Submit(std::move(large));
  }
  /// Waits until the holder has generated n more tokens. Each token is a step of the scheduler.
  void AwaitTokens(int64_t n) {
    while (n > 0) {
      const Job::News news = holder_->Take(1);
      ASSERT_FALSE(news.finished);
      n -= std::ssize(news.tokens);
    }
  }
  /// Whether the job ends within 2,000 more steps of the holder.
  bool EndsSoon(const std::shared_ptr<Job>& job) {
    for (int i = 0; i < 200; ++i) {
      AwaitTokens(10);
      if (job->Take(0).finished) return true;
    }
    return false;
  }
  std::shared_ptr<Job> SubmitSmall(uint64_t seed, const std::string& name = "") {
    JobRequest request = Request(Prompt(100 + seed, 20), 2);
    request.session_id.name = name;
    return Submit(std::move(request));
  }
  std::shared_ptr<Job> holder_, large_;
};

TEST_F(OvertakingTest, SmallOnesPassSoOftenAndThenNoMore) {
  StartFull();
  for (uint64_t i = 0; i < kMaxPassed; ++i) ASSERT_TRUE(EndsSoon(SubmitSmall(i))) << i;
  const auto late = SubmitSmall(kMaxPassed);
  EXPECT_FALSE(EndsSoon(late)) << "the large request has been passed kMaxPassed times";
  EXPECT_FALSE(large_->Take(0).finished);
  EXPECT_EQ(scheduler_->n_waiting(), 2);
  holder_->Cancel();
  EXPECT_TRUE(Finish(large_).last.status.ok());
  EXPECT_TRUE(Finish(late).last.status.ok());
}

TEST_F(OvertakingTest, NobodyPassesInTheSameSession) {
  StartFull("tale");
  const auto same = SubmitSmall(1, "tale");
  EXPECT_TRUE(EndsSoon(SubmitSmall(2)));
  EXPECT_FALSE(EndsSoon(same)) << "requests of one session keep their order";
  holder_->Cancel();
  EXPECT_TRUE(Finish(large_).last.status.ok());
  EXPECT_TRUE(Finish(same).last.status.ok());
}

TEST_F(OvertakingTest, OneThatLeavesBlocksNobody) {
  StartFull();
  for (uint64_t i = 0; i < kMaxPassed; ++i) ASSERT_TRUE(EndsSoon(SubmitSmall(i))) << i;
  large_->Cancel();
  EXPECT_TRUE(EndsSoon(SubmitSmall(kMaxPassed)));
  EXPECT_EQ(Finish(large_).last.status.code(), StatusCode::kCancelled);
  holder_->Cancel();
}

}  // namespace
}  // namespace duo
