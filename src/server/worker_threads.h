// The server's own threads: one for the scheduler, one that accepts connections, and one for each connection.
#pragma once

#include <climits>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <list>
#include <thread>

#include "base/mutex.h"

namespace duo {

/// Threads that each run one task at a time. Some are started beforehand and stay. So a limit on threads cannot leave a
/// listening server without them. Thread safe. Tasks must not throw.
class WorkerThreads {
 public:
  /// Never starts more than max_threads, as if the system refused further ones.
  explicit WorkerThreads(int max_threads = INT_MAX) : max_threads_(max_threads) {}
  /// Waits for all tasks.
  ~WorkerThreads();
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  /// Starts threads until there are n. These stay, while further ones end when they have no task. Returns how many
  /// there are: fewer than n when the system refuses one (a limit on processes, no memory for a stack).
  int Start(int n);

  /// Runs a task on an idle thread, else on a new one. False when no thread is idle and the system refuses a new one.
  bool Run(std::function<void()> task);
  /// Like Run. The future becomes ready when the task is done. It is invalid when no thread is available.
  std::future<void> Begin(std::function<void()> task);
  /// Runs a task as soon as a thread is idle.
  void RunLater(std::function<void()> task);

 private:
  using Threads = std::list<std::thread>;
  bool StartOne() DUO_REQUIRES(mutex_);
  void Work(Threads::iterator self);
  void JoinEnded() DUO_EXCLUDES(mutex_);

  const int max_threads_;
  Mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_ DUO_GUARDED_BY(mutex_);
  Threads threads_ DUO_GUARDED_BY(mutex_);
  Threads ended_ DUO_GUARDED_BY(mutex_);
  size_t n_idle_ DUO_GUARDED_BY(mutex_) = 0;  // threads in threads_ without a task, even if tasks_ waits for them
  size_t n_kept_ DUO_GUARDED_BY(mutex_) = 0;  // idle threads end while threads_ holds more than this
  bool stop_ DUO_GUARDED_BY(mutex_) = false;
};

}  // namespace duo
