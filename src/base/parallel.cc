#include "base/parallel.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

#if defined(__SANITIZE_THREAD__)
#define DUO_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DUO_TSAN 1
#endif
#endif
#ifdef DUO_TSAN
// ThreadSanitizer does not see the OpenMP runtime's own fork and join; these two tell it.
extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
namespace {
inline void __tsan_acquire(void*) {}  // NOLINT(bugprone-reserved-identifier)
inline void __tsan_release(void*) {}  // NOLINT(bugprone-reserved-identifier)
}  // namespace
#endif

namespace duo {

void ParallelFor(int n_threads, int64_t n_tasks, const ParallelBody& body) {
  if (n_tasks <= 0) return;
  const int team = static_cast<int>(std::min<int64_t>(n_threads, n_tasks));
  if (team <= 1) {
    for (int64_t task = 0; task < n_tasks; ++task) body(task, 0);
    return;
  }
  // Everything the team shares lives behind one pointer, so that the annotations can name it.
  struct Shared {
    std::atomic<int64_t> next{0};
    const ParallelBody* body;
    int64_t n_tasks;
    char forked, joined;
  } shared;
  shared.body = &body;
  shared.n_tasks = n_tasks;
  Shared* const s = &shared;
  __tsan_release(&s->forked);
#pragma omp parallel num_threads(team) firstprivate(s) default(none)
  {
    __tsan_acquire(&s->forked);
    const int thread = omp_get_thread_num();
    for (;;) {
      const int64_t task = s->next.fetch_add(1, std::memory_order_relaxed);
      if (task >= s->n_tasks) break;
      (*s->body)(task, thread);
    }
    __tsan_release(&s->joined);
  }
  __tsan_acquire(&s->joined);
}

int AvailableThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  // cgroup v2 quota: "max 100000" or "<quota> <period>" in microseconds.
  if (std::FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "re")) {
    long quota = 0, period = 0;
    if (std::fscanf(f, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
      n = std::min(n, static_cast<int>((quota + period - 1) / period));
    }
    std::fclose(f);
  }
  return std::max(n, 1);
}

void SetLibraryThreads(int n_threads) { omp_set_num_threads(n_threads); }

}  // namespace duo
