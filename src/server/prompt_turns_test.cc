#include "server/prompt_turns.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "base/rng.h"

namespace duo {
namespace {

constexpr int64_t kChunk = 128;

/// Reads prompts in chunks, as the scheduler does.
class Reading {
 public:
  void Come(int id, int64_t n_tokens) {
    prompts_.push_back({.n_left = n_tokens, .last_turn = turn_});
    ids_.push_back(id);
  }
  /// Reads one chunk. Returns the id of its prompt.
  int Step() {
    const size_t who = PromptOfTurn(turn_, prompts_);
    const int id = ids_[who];
    prompts_[who].last_turn = turn_++;
    prompts_[who].n_left -= kChunk;
    if (prompts_[who].n_left <= 0) {
      prompts_.erase(prompts_.begin() + who);
      ids_.erase(ids_.begin() + who);
    }
    return id;
  }
  size_t n_reading() const { return prompts_.size(); }

 private:
  std::vector<UnreadPrompt> prompts_;
  std::vector<int> ids_;
  int64_t turn_ = 0;
};

TEST(PromptTurnsTest, TheShortestStartsWithinTwoChunks) {
  for (int before = 0; before < 2 * kOldestEvery; ++before) {
    Reading reading;
    reading.Come(1, 100000);
    reading.Come(2, 50000);
    for (int i = 0; i < before; ++i) reading.Step();
    reading.Come(3, 20);
    const int first = reading.Step(), second = reading.Step();
    EXPECT_TRUE(first == 3 || second == 3) << before;
  }
}

TEST(PromptTurnsTest, ALongPromptGoesOnBesideAnEndlessStreamOfShortOnes) {
  for (const int64_t short_tokens : {int64_t{1}, kChunk, 3 * kChunk}) {
    Reading reading;
    reading.Come(0, int64_t{1} << 40);
    int64_t since = 0;
    for (int step = 0; step < 2000; ++step) {
      while (reading.n_reading() < 8) reading.Come(1, short_tokens);
      since = reading.Step() == 0 ? 0 : since + 1;
      ASSERT_LT(since, kOldestEvery * 8) << step;
    }
  }
}

TEST(PromptTurnsTest, NobodyWaitsLongerThanTheBound) {
  Rng rng(7);
  Reading reading;
  std::map<int, int64_t> came;  // the turn in which a prompt came or was last served
  int next_id = 0;
  constexpr int64_t kReading = 16;
  for (int64_t turn = 0; turn < 20000; ++turn) {
    while (reading.n_reading() < kReading && (reading.n_reading() == 0 || rng.Below(2) == 0)) {
      came[next_id] = turn;
      reading.Come(next_id++, static_cast<int64_t>(1 + rng.Below(rng.Below(10) == 0 ? 100000 : 300)));
    }
    const size_t before = reading.n_reading();
    const int who = reading.Step();
    ASSERT_LE(turn - came[who], kOldestEvery * kReading);
    came[who] = turn;
    if (reading.n_reading() < before) came.erase(who);
  }
  for (const auto& entry : came) ASSERT_LE(20000 - entry.second, kOldestEvery * kReading);
}

TEST(PromptTurnsTest, EqualsGoInOrder) {
  const UnreadPrompt equal[] = {{.n_left = 5, .last_turn = 2}, {.n_left = 5, .last_turn = 2}};
  for (int64_t turn = 0; turn < 2 * kOldestEvery; ++turn) EXPECT_EQ(PromptOfTurn(turn, equal), 0u);
}

}  // namespace
}  // namespace duo
