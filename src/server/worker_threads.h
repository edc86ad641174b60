// The server's own threads: the scheduler's, the one that accepts connections, and one for each connection.
#pragma once

#include <climits>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <list>
#include <mutex>
#include <thread>

namespace duo {

/// Threads that run tasks, one task each at a time. Some are started beforehand and stay, so that a limit on threads
/// cannot leave a server that listens without threads. Thread safe. Tasks must not throw.
class WorkerThreads {
 public:
  /// Never more than max_threads, as if the system refused further ones.
  explicit WorkerThreads(int max_threads = INT_MAX) : max_threads_(max_threads) {}
  /// Waits for all tasks.
  ~WorkerThreads();
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  /// Starts threads until there are n. They stay; further ones end when they have no task. Returns how many there are:
  /// fewer than n when the system refuses one (a limit on processes, no memory for a stack).
  int Start(int n);

  /// Runs a task on an idle thread, else on a new one. False when there is no idle thread and the system refuses one.
  bool Run(std::function<void()> task);
  /// The same; the future becomes ready when the task is done. An invalid future when no thread can be had.
  std::future<void> Begin(std::function<void()> task);
  /// Runs a task as soon as a thread is idle.
  void RunLater(std::function<void()> task);

 private:
  using Threads = std::list<std::thread>;
  bool StartOne();
  void Work(Threads::iterator self);
  void JoinEnded(std::unique_lock<std::mutex>* lock);

  const int max_threads_;
  std::mutex mutex_;  // of what follows
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  Threads threads_, ended_;
  size_t n_idle_ = 0;  // of threads_: those without a task, tasks_ not counted
  size_t n_kept_ = 0;  // of threads_: idle ones end while there are more
  bool stop_ = false;
};

}  // namespace duo
