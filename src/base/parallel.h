// Spreads work over threads. All parallel code uses this; base/thread_team.h says how it works.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

namespace duo {

/// A borrowed callable void(int64_t task, int thread). It must live during the call that it is passed to.
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

/// Runs body(task, thread) for every task in [0, n_tasks), with thread in [0, n_threads). Threads take tasks one at a
/// time in increasing order (dynamic scheduling). Returns when all tasks are done; their writes are then visible to the
/// caller. Fewer than n_threads may take part, when the system refuses threads or another program needs the cores. A
/// task that calls this runs the inner tasks itself. The body must not throw.
void ParallelFor(int n_threads, int64_t n_tasks, const ParallelBody& body);

/// Starts the threads that ParallelFor would use, so that a limit on threads shows early. Returns their number, the
/// caller included: n_threads, or fewer when the system refuses them.
int StartThreads(int n_threads);

/// Calls body(begin, end) for blocks of [0, n) of size `block` (the last may be shorter), as tasks of ParallelFor.
template <typename Body>
void ParallelBlocks(int n_threads, int64_t n, int64_t block, const Body& body) {
  ParallelFor(n_threads, (n + block - 1) / block,
              [&](int64_t b, int) { body(b * block, n - b * block < block ? n : (b + 1) * block); });
}

/// Number of cores that this process may use by its affinity mask and cgroup quota, at least 1.
int AvailableThreads();

/// While it lives, a library that uses OpenMP (oneDNN) runs on the calling thread alone. Such a library divides its
/// work by the number of threads that it asked for, and computes garbage on a smaller team. The runtime gives a smaller
/// team under OMP_THREAD_LIMIT or OMP_DYNAMIC, or inside another parallel region. A team of one thread is always
/// granted.
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
