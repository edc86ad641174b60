// A mutex, and annotations that say what it guards. Clang checks them (-Wthread-safety, which its presets set), and gcc
// ignores them.
#pragma once

#include <mutex>

#if defined(__clang__)
#define DUO_THREAD_ATTRIBUTE_(x) __attribute__((x))
#else
#define DUO_THREAD_ATTRIBUTE_(x)
#endif

/// On a member: it is read and changed only while the mutex is held.
#define DUO_GUARDED_BY(mutex) DUO_THREAD_ATTRIBUTE_(guarded_by(mutex))
/// On a function or lambda: it is called only while the mutex is held.
#define DUO_REQUIRES(mutex) DUO_THREAD_ATTRIBUTE_(requires_capability(mutex))
/// On a function: it is called only while the mutex is not held, because it takes the mutex itself.
#define DUO_EXCLUDES(mutex) DUO_THREAD_ATTRIBUTE_(locks_excluded(mutex))

namespace duo {

/// Taken by a MutexLock only.
class DUO_THREAD_ATTRIBUTE_(capability("mutex")) Mutex {
 private:
  friend class MutexLock;
  std::mutex mutex_;
};

/// Holds a mutex while it exists, except between Unlock and Lock.
class DUO_THREAD_ATTRIBUTE_(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) DUO_THREAD_ATTRIBUTE_(acquire_capability(mutex)) : lock_(mutex->mutex_) {}
  ~MutexLock() DUO_THREAD_ATTRIBUTE_(release_capability()) {}
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void Unlock() DUO_THREAD_ATTRIBUTE_(release_capability()) { lock_.unlock(); }
  void Lock() DUO_THREAD_ATTRIBUTE_(acquire_capability()) { lock_.lock(); }
  /// For the wait functions of std::condition_variable, which return while the mutex is held.
  std::unique_lock<std::mutex>& native() { return lock_; }

 private:
  std::unique_lock<std::mutex> lock_;
};

}  // namespace duo
