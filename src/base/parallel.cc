#include "base/parallel.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "base/cgroup.h"
#include "base/thread_team.h"

namespace duo {

namespace {

// Whether this thread runs a task of a region. If that task starts another region, it runs the inner tasks alone,
// because the cores are busy.
thread_local bool in_region = false;

class InRegion {
 public:
  InRegion() { in_region = true; }
  ~InRegion() { in_region = false; }
  InRegion(const InRegion&) = delete;
  InRegion& operator=(const InRegion&) = delete;
};

/// Teams that no caller is using. Two callers at the same time get different teams.
class IdleTeams {
 public:
  std::unique_ptr<ThreadTeam> Take() {
    const std::lock_guard lock(mutex_);
    if (teams_.empty()) return std::make_unique<ThreadTeam>();
    std::unique_ptr<ThreadTeam> team = std::move(teams_.back());
    teams_.pop_back();
    return team;
  }
  void Return(std::unique_ptr<ThreadTeam> team) {
    const std::lock_guard lock(mutex_);
    teams_.push_back(std::move(team));
  }

  /// Lives until the process ends, because helpers may still look for work while other statics are destroyed.
  static IdleTeams& Get() {
    static auto* const teams = new IdleTeams();
    return *teams;
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<ThreadTeam>> teams_;
};

/// Holds a team of up to n_threads for a scope.
class LeasedTeam {
 public:
  explicit LeasedTeam(int n_threads) : team_(IdleTeams::Get().Take()) { team_->Grow(n_threads); }
  ~LeasedTeam() { IdleTeams::Get().Return(std::move(team_)); }
  LeasedTeam(const LeasedTeam&) = delete;
  LeasedTeam& operator=(const LeasedTeam&) = delete;
  ThreadTeam* operator->() { return team_.get(); }

 private:
  std::unique_ptr<ThreadTeam> team_;
};

}  // namespace

void ParallelFor(int n_threads, int64_t n_tasks, const ParallelBody& body) {
  if (n_tasks <= 0) return;
  const int wanted = std::min<int64_t>(n_threads, n_tasks);
  if (wanted <= 1 || in_region) {
    for (int64_t task = 0; task < n_tasks; ++task) body(task, 0);
    return;
  }
  const auto run = [&](int64_t task, int thread) {
    const InRegion mark;
    body(task, thread);
  };
  LeasedTeam team(wanted);
  for (int64_t begin = 0; begin < n_tasks; begin += ThreadTeam::kMaxTasks) {
    team->Run(wanted, std::min(n_tasks - begin, ThreadTeam::kMaxTasks),
              [&](int64_t task, int thread) { run(begin + task, thread); });
  }
}

int StartThreads(int n_threads) {
  LeasedTeam team(n_threads);
  return std::min(n_threads, team->n_threads());
}

int AvailableThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::max(1, std::min(n, CgroupCpus().value_or(n)));
}

LibraryOnOneThread::LibraryOnOneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
LibraryOnOneThread::~LibraryOnOneThread() { omp_set_num_threads(before_); }

}  // namespace duo
