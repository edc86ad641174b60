#include "base/parallel.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>

#include "base/cgroup.h"

#if defined(__SANITIZE_THREAD__)
#define DUO_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DUO_TSAN 1
#endif
#endif
#ifdef DUO_TSAN
#include <thread>
#include <vector>
#endif

namespace duo {

namespace {

/// Runs work(thread) on every thread of a team and waits for all.
template <typename Work>
void RunTeam(int team, const Work& work) {
#ifdef DUO_TSAN
  // ThreadSanitizer cannot see the OpenMP runtime's own fork and join and would report every task as a race; plain
  // threads do the same work in a way that it understands.
  std::vector<std::thread> others;
  for (int thread = 1; thread < team; ++thread) others.emplace_back([&work, thread] { work(thread); });
  work(0);
  for (std::thread& other : others) other.join();
#else
#pragma omp parallel num_threads(team)
  work(omp_get_thread_num());
#endif
}

}  // namespace

void ParallelFor(int n_threads, int64_t n_tasks, const ParallelBody& body) {
  if (n_tasks <= 0) return;
  const int team = static_cast<int>(std::min<int64_t>(n_threads, n_tasks));
  if (team <= 1) {
    for (int64_t task = 0; task < n_tasks; ++task) body(task, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  RunTeam(team, [&](int thread) {
    for (;;) {
      const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
      if (task >= n_tasks) break;
      body(task, thread);
    }
  });
}

int AvailableThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::max(1, std::min(n, CgroupCpus().value_or(n)));
}

void SetLibraryThreads(int n_threads) { omp_set_num_threads(n_threads); }

}  // namespace duo
