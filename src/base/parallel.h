// The one place where work is spread over threads (base/thread_team.h says how).
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

namespace duo {

/// A borrowed callable void(int64_t task, int thread); valid during the call it is passed to.
class ParallelBody {
 public:
  template <typename F, typename = std::enable_if_t<!std::is_same_v<std::decay_t<F>, ParallelBody>>>
  ParallelBody(F&& f)  // NOLINT(google-explicit-constructor)
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* o, int64_t task, int thread) { (*static_cast<std::remove_reference_t<F>*>(o))(task, thread); }) {
  }
  void operator()(int64_t task, int thread) const { call_(object_, task, thread); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int);
};

/// Runs body(task, thread) for every task in [0, n_tasks), thread in [0, n_threads). Tasks are handed out one at a
/// time in increasing order (dynamic scheduling). Returns when all are done; their writes are visible to the caller.
/// The threads that take part, and their number, are open: fewer than n_threads where the system refuses threads or
/// another program needs the cores. A task that calls this runs the inner tasks itself. The body must not throw.
void ParallelFor(int n_threads, int64_t n_tasks, const ParallelBody& body);

/// Starts the threads that ParallelFor would use, so that a limit on threads shows early. Returns how many there are,
/// the caller included: n_threads, or fewer when the system refuses them.
int StartThreads(int n_threads);

/// body(begin, end) over [0, n) in blocks of `block` (the last may be shorter), as ParallelFor runs tasks.
template <typename Body>
void ParallelBlocks(int n_threads, int64_t n, int64_t block, const Body& body) {
  ParallelFor(n_threads, (n + block - 1) / block,
              [&](int64_t b, int) { body(b * block, n - b * block < block ? n : (b + 1) * block); });
}

/// Cores this process may run on (affinity mask and cgroup quota respected), at least 1.
int AvailableThreads();

/// While it lives, a library that is built on OpenMP (oneDNN) runs on the calling thread alone. Such a library cuts its
/// work by the number of threads that were asked for and computes garbage on a smaller team, which is what the runtime
/// gives under OMP_THREAD_LIMIT, OMP_DYNAMIC or inside somebody else's parallel region. A team of one is always given.
class LibraryOnOneThread {
 public:
  LibraryOnOneThread();
  ~LibraryOnOneThread();
  LibraryOnOneThread(const LibraryOnOneThread&) = delete;
  LibraryOnOneThread& operator=(const LibraryOnOneThread&) = delete;

 private:
  int before_;
};

}  // namespace duo
