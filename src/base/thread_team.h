// Threads that share the tasks of parallel regions and get out of other programs' way.
#pragma once

#include <memory>

#include "base/parallel.h"

namespace duo {

/// A caller and its helper threads, for regions that follow one another. One region at a time; not thread safe.
///
/// A runtime with barriers waits for every thread of a team, and a thread whose core another program has taken arrives
/// a time slice late. Here a region needs only its tasks done:
///   - One word, the ticket, holds how many threads may take part, the number of tasks and the next one. Taking a task
///     moves `next` on. The word says everything, so a thread that looks late takes a task of the present region or
///     none.
///   - The caller takes tasks too. When none is left, it waits for those that helpers have begun. A helper that has not
///     come by then is left out: a team whose helpers never run is as fast as a single thread.
///   - A helper without a task spins for some microseconds, about the time between two regions of a decode step, and
///     then sleeps.
///   - Helpers and the caller measure how much of their time they had a core. When another program takes much of it, a
///     helper stays away for a while: two threads on one core are slower than one, since each region waits for the one
///     that is not running. The pause grows each time, up to a second, and shrinks after a stretch without neighbours.
class ThreadTeam {
 public:
  ThreadTeam();
  /// Ends the helpers and waits for them.
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  /// Starts helpers until caller and helpers are n_threads, or until the system refuses one (a limit on threads, no
  /// memory for a stack). Never ends any.
  void Grow(int n_threads);
  /// The caller and its helpers.
  int n_threads() const;

  static constexpr int64_t kMaxTasks = (int64_t{1} << 25) - 1;

  /// As ParallelFor, on at most n_threads of the team, for at most kMaxTasks.
  void Run(int n_threads, int64_t n_tasks, const ParallelBody& body);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace duo
