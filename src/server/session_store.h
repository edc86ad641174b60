// Sessions by owner and name. The scheduler holds those in memory, and one folder holds those on disk.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/directory_lock.h"
#include "base/mutex.h"
#include "server/api_error.h"
#include "server/cache_spec.h"
#include "server/scheduler.h"
#include "server/session_id.h"

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

/// The folder where sessions are saved, and the quota of each owner.
struct SessionFolder {
  std::string path;                          // empty = sessions live in memory only
  uint64_t max_bytes = uint64_t{256} << 30;  // of all files of one owner
  int64_t max_sessions = 1000;               // of one owner
};

/// Sessions of the owner without a name are FOLDER/NAME.session, those of others FOLDER/owners/OWNER/NAME.session.
/// Only this user can read the files, and the folders made here. Anything other than a regular file, such as a link or
/// a pipe, counts as absent. Errors for clients name files without the folder.
///
/// Invariants.
///   1. `lock_` keeps other servers out of the folder.
///   2. One thread at a time works on a session: it holds a SessionLock, and `in_work_` holds the session's id.
///   3. A thread that writes or restores a session holds its SequenceLease, so no request changes it.
///   4. A file appears under its name only when it is complete (Session::Save).
///   5. A write starts only while the owner's other files, other writes in progress and its own bytes fit the quota.
///      `being_written_` holds the bytes of writes in progress.
///
/// Thread safe. Calls may take as long as reading or writing the session's memory does. The scheduler's steps continue
/// during that time.
class SessionStore {
 public:
  /// Locks the folder for this process and removes files that a killed process left half written. Fails with kIo, or
  /// with kUnavailable when another server uses the folder.
  static Result<std::unique_ptr<SessionStore>> Open(const SessionFolder& folder, const Model* model,
                                                    const CacheDefaults* defaults, Workspace* workspace,
                                                    Scheduler* scheduler);

  Result<std::vector<SessionEntry>> List(const std::string& owner) const;
  /// The error is 507 when the disk or the owner's quota is full.
  ApiResult<SessionEntry> Save(const SessionId& id);
  ApiResult<SessionEntry> Restore(const SessionId& id);
  ApiStatus Delete(const SessionId& id);
  /// Restores a session that is on disk but not in memory. Does nothing for others.
  ApiStatus EnsureRestored(const SessionId& id);
  /// Saves the idle sessions in memory that have changed since they were saved or restored. Tries all of them and
  /// returns the first error.
  Status SaveIdle();

  bool has_folder() const { return !folder_.path.empty(); }

 private:
  SessionStore(SessionFolder folder, std::optional<DirectoryLock> lock, const Model* model,
               const CacheDefaults* defaults, Workspace* workspace, Scheduler* scheduler);
  std::string FolderOf(const std::string& owner) const;
  std::string PathOf(const SessionId& id) const;
  bool OnDisk(const SessionId& id) const;
  Result<std::vector<std::string>> NamesOnDisk(const std::string& owner) const;
  ApiStatus RestoreFile(const SessionId& id);
  Status LoadFile(const SessionId& id);
  /// Writes the file of a session.
  Status WriteFile(const SessionId& id, const SequenceLease& lease);
  /// The error without the folder's path, which clients must not learn.
  ApiError ForClient(const Status& status) const;

  /// While it exists, no other thread works on the session.
  class SessionLock;
  /// Claims a part of the owner's quota while a session is written.
  class QuotaClaim;

  const SessionFolder folder_;
  std::optional<DirectoryLock> lock_;
  const Model* model_;
  const CacheDefaults* defaults_;
  Workspace* workspace_;
  Scheduler* scheduler_;
  Mutex mutex_;
  std::condition_variable changed_;
  std::set<SessionId> in_work_ DUO_GUARDED_BY(mutex_);
  std::map<SessionId, uint64_t> being_written_ DUO_GUARDED_BY(mutex_);  // bytes that a QuotaClaim holds
};

}  // namespace duo
