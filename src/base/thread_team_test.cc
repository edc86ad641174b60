#include "base/thread_team.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/parallel.h"

namespace duo {
namespace {

void ExpectEveryTaskOnce(int n_threads, int64_t n_tasks) {
  std::vector<std::atomic<int>> seen(n_tasks);
  std::atomic<int> bad_threads{0};
  ParallelFor(n_threads, n_tasks, [&](int64_t task, int thread) {
    seen[task] += 1;
    if (thread < 0 || thread >= n_threads) ++bad_threads;
  });
  EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](const auto& n) { return n == 1; }));
  EXPECT_EQ(bad_threads, 0);
}

TEST(ParallelFor, RunsEveryTaskOnce) {
  for (const int n_threads : {1, 2, 3, 8}) {
    for (const int64_t n_tasks : {0, 1, 2, 3, 7, 1000}) ExpectEveryTaskOnce(n_threads, n_tasks);
  }
}

// Many small regions: helpers arrive late, or in the next region.
TEST(ParallelFor, ManyShortRegions) {
  std::vector<int> sums(64, 0);
  for (int region = 0; region < 20000; ++region) {
    const int64_t n_tasks = 2 + region % 5;
    ParallelFor(2 + region % 3, n_tasks, [&](int64_t task, int) { ++sums[task]; });
  }
  for (int task = 0; task < 6; ++task) {
    int expected = 0;
    for (int region = 0; region < 20000; ++region) expected += task < 2 + region % 5 ? 1 : 0;
    EXPECT_EQ(sums[task], expected) << "task " << task;
  }
}

// No two tasks that run at the same time have the same thread number, because scratch memory is indexed by it.
TEST(ParallelFor, ThreadNumbersAreExclusive) {
  std::vector<std::atomic<int>> inside(4);
  std::atomic<int> clashes{0};
  for (int region = 0; region < 200; ++region) {
    ParallelFor(4, 64, [&](int64_t, int thread) {
      if (inside[thread].fetch_add(1) != 0) ++clashes;
      inside[thread].fetch_sub(1);
    });
  }
  EXPECT_EQ(clashes, 0);
}

TEST(ParallelFor, ARegionInsideATaskRunsThere) {
  std::atomic<int> inner{0}, elsewhere{0};
  ParallelFor(3, 6, [&](int64_t, int) {
    const std::thread::id here = std::this_thread::get_id();
    ParallelFor(3, 5, [&](int64_t, int thread) {
      ++inner;
      if (thread != 0 || std::this_thread::get_id() != here) ++elsewhere;
    });
  });
  EXPECT_EQ(inner, 30);
  EXPECT_EQ(elsewhere, 0);
}

TEST(ParallelFor, CallersAtTheSameTime) {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([] {
      for (int region = 0; region < 50; ++region) ExpectEveryTaskOnce(3, 40);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// A child process has only the caller's thread, so no helper runs there. The caller must run all tasks and must not
// wait.
TEST(ThreadTeam, ARegionEndsWithoutHelpersThatDoNotCome) {
  ThreadTeam team;
  team.Grow(4);
  const pid_t child = fork();
  if (child == 0) {
    int n = 0;
    team.Run(4, 100, [&](int64_t, int thread) { n += thread == 0 ? 1 : 1000; });
    _exit(n == 100 ? 0 : 1);
  }
  ASSERT_GT(child, 0);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(ThreadTeam, GrowsAndUsesAsManyAsAreAskedFor) {
  ThreadTeam team;
  EXPECT_EQ(team.n_threads(), 1);
  team.Grow(4);
  EXPECT_EQ(team.n_threads(), 4);
  team.Grow(2);
  EXPECT_EQ(team.n_threads(), 4) << "helpers stay";
  std::atomic<int> most{0};
  for (int region = 0; region < 200; ++region) {
    team.Run(2, 50, [&](int64_t, int thread) {
      int seen = most;
      while (thread > seen && !most.compare_exchange_weak(seen, thread)) {
      }
    });
  }
  EXPECT_LE(most, 1);
}

// A helper may pause beside busy programs, so no single region can be expected to have one.
TEST(ThreadTeam, HelpersComeAndWakeUpAgain) {
  ThreadTeam team;
  team.Grow(2);
  int n_helped = 0;
  for (int region = 0; region < 3000 && n_helped < 20; ++region) {
    std::atomic<bool> helped{false};
    team.Run(2, 8, [&](int64_t, int thread) {
      if (thread == 1) helped = true;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    });
    n_helped += helped ? 1 : 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(region % 2));  // long enough to fall asleep, or too short
  }
  EXPECT_EQ(n_helped, 20);
}

TEST(StartThreads, SaysHowManyThereAre) {
  EXPECT_EQ(StartThreads(1), 1);
  EXPECT_EQ(StartThreads(3), 3);
}

TEST(ParallelBlocks, CoverTheRangeOnce) {
  for (const int64_t n : {0, 1, 7, 8, 9, 100}) {
    std::vector<std::atomic<int>> seen(n);
    ParallelBlocks(2, n, 8, [&](int64_t begin, int64_t end) {
      EXPECT_LE(end - begin, 8);
      for (int64_t i = begin; i < end; ++i) ++seen[i];
    });
    for (const std::atomic<int>& times : seen) EXPECT_EQ(times, 1);
  }
}

}  // namespace
}  // namespace duo
