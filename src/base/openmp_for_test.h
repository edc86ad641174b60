// OpenMP settings that a program may make around the library.
#pragma once

#include <omp.h>

namespace duo {

/// While it lives, every OpenMP parallel region that this thread starts gets one thread, as with
/// OMP_MAX_ACTIVE_LEVELS=0 or OMP_THREAD_LIMIT=1.
class OpenMpWithoutTeams {
 public:
  OpenMpWithoutTeams() : levels_(omp_get_max_active_levels()) { omp_set_max_active_levels(0); }
  ~OpenMpWithoutTeams() { omp_set_max_active_levels(levels_); }
  OpenMpWithoutTeams(const OpenMpWithoutTeams&) = delete;
  OpenMpWithoutTeams& operator=(const OpenMpWithoutTeams&) = delete;

 private:
  int levels_;
};

/// Calls work(thread) on n threads of a parallel region.
template <typename Work>
void InOpenMpRegion(int n, const Work& work) {
#pragma omp parallel num_threads(n)
  work(omp_get_thread_num());
}

inline int OpenMpThreads() { return omp_get_max_threads(); }
inline void SetOpenMpThreads(int n) { omp_set_num_threads(n); }

}  // namespace duo
