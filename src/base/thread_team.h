// Threads that share the tasks of parallel regions and make room for other programs.
#pragma once

#include <memory>

#include "base/parallel.h"

namespace duo {

/// A caller and its helper threads, for regions that follow one another. It runs one region at a time. Not thread safe.
///
/// A runtime with barriers waits for every thread of a team. A thread whose core another program has taken then arrives
/// a time slice late. Here a region ends as soon as its tasks are done.
///
/// One word, the ticket, has the number of threads that may take part, the number of tasks, and the next task. A thread
/// takes a task by incrementing `next`. The word says everything, so a late thread takes a task of the current region
/// or none.
///
/// The caller takes tasks too. When none is left, it waits for the tasks that helpers have begun. It does not wait for
/// helpers without a task, so a team whose helpers never run is as fast as a single thread.
///
/// A helper without a task spins for some microseconds, about the time between two regions of a decode step, and then
/// sleeps.
///
/// Helpers and the caller measure how much of their time they had a core. When another program takes much of it, a
/// helper pauses for a while. Two threads on one core are slower than one, because each region waits for the thread
/// that is not running. The pause grows each time, up to a second, and shrinks after a stretch without neighbours.
class ThreadTeam {
 public:
  ThreadTeam();
  /// Ends the helpers and waits for them.
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  /// Starts helpers until the caller and its helpers are n_threads, or until the system refuses one (a limit on
  /// threads, no memory for a stack). Never ends a helper.
  void Grow(int n_threads);
  /// Number of threads: the caller and its helpers.
  int n_threads() const;

  static constexpr int64_t kMaxTasks = (int64_t{1} << 25) - 1;

  /// As ParallelFor, on at most n_threads of the team. n_tasks is at most kMaxTasks.
  void Run(int n_threads, int64_t n_tasks, const ParallelBody& body);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace duo
