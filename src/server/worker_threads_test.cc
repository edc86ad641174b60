#include "server/worker_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <vector>

namespace duo {
namespace {

TEST(WorkerThreads, StartsAsManyAsTheSystemAllows) {
  WorkerThreads threads(3);
  EXPECT_EQ(threads.Start(2), 2);
  EXPECT_EQ(threads.Start(6), 3);
}

TEST(WorkerThreads, RefusesWhatNoThreadCanRun) {
  std::promise<void> go, later;  // outlive the threads, which may still use them
  const std::shared_future<void> gone = go.get_future().share();
  WorkerThreads threads(2);
  std::vector<std::future<void>> running;
  for (int i = 0; i < 2; ++i) running.push_back(threads.Begin([gone] { gone.wait(); }));
  EXPECT_FALSE(threads.Run([] {}));
  EXPECT_FALSE(threads.Begin([] {}).valid());
  threads.RunLater([&later] { later.set_value(); });
  go.set_value();
  later.get_future().wait();
  for (const std::future<void>& task : running) task.wait();
}

TEST(WorkerThreads, AStartedThreadIsThereAgainAfterItsTask) {
  std::atomic<int> n = 0;
  std::promise<void> last;
  WorkerThreads threads(1);
  ASSERT_EQ(threads.Start(1), 1);
  threads.Begin([&] { ++n; }).wait();
  // The thread takes a moment to become idle again, so later tasks wait for it.
  for (int i = 0; i < 100; ++i) threads.RunLater([&] { ++n; });
  threads.RunLater([&last] { last.set_value(); });
  last.get_future().wait();
  EXPECT_EQ(n, 101);
}

TEST(WorkerThreads, TheEndWaitsForTasks) {
  std::atomic<int> n = 0;
  {
    WorkerThreads threads;
    ASSERT_EQ(threads.Start(2), 2);
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(threads.Run([&n] { ++n; }));
  }
  EXPECT_EQ(n, 50);
}

}  // namespace
}  // namespace duo
