// Sessions by name: in memory with the scheduler, on disk in one folder.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/directory_lock.h"
#include "server/api_error.h"
#include "server/cache_spec.h"
#include "server/scheduler.h"

namespace duo {

struct SessionEntry {
  std::string name;
  int64_t n_tokens = 0;
  uint64_t kv_bytes = 0;
  bool in_memory = false;
  bool busy = false;
  bool on_disk = false;
  uint64_t disk_bytes = 0;
};

/// Thread safe. A name is worked on by one thread at a time. Everything here may take as long as reading or writing the
/// session's memory does, beside the scheduler's steps.
class SessionStore {
 public:
  /// `folder` empty: sessions live in memory only. Takes the folder for this process and removes what a killed one left
  /// half written. kIo, kInvalidArgument when another server has it.
  static Result<std::unique_ptr<SessionStore>> Open(const std::string& folder, const Model* model,
                                                    const CacheDefaults* defaults, Workspace* workspace,
                                                    Scheduler* scheduler);

  Result<std::vector<SessionEntry>> List() const;
  std::optional<ApiError> Save(const std::string& name, SessionEntry* saved);
  std::optional<ApiError> Restore(const std::string& name, SessionEntry* restored);
  std::optional<ApiError> Delete(const std::string& name);
  /// Restores a session that is on disk but not in memory; nothing to do for others.
  std::optional<ApiError> Need(const std::string& name);
  /// Saves the sessions in memory that nobody uses now and that have changed since they were saved or restored. The
  /// first error, after trying all.
  Status SaveIdle();

  bool has_folder() const { return !folder_.empty(); }

 private:
  SessionStore(std::string folder, std::optional<DirectoryLock> lock, const Model* model, const CacheDefaults* defaults,
               Workspace* workspace, Scheduler* scheduler);
  std::string PathOf(const std::string& name) const;
  Result<std::vector<std::string>> NamesOnDisk() const;
  /// Of one that is checked out.
  Status WriteFile(PooledSequence* sequence) const;
  std::optional<ApiError> RestoreFile(const std::string& name);
  Status LoadFile(const std::string& name);

  /// One thread at a time for a name.
  class Turn;

  const std::string folder_;
  std::optional<DirectoryLock> lock_;
  const Model* model_;
  const CacheDefaults* defaults_;
  Workspace* workspace_;
  Scheduler* scheduler_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::string> in_work_;
};

}  // namespace duo
