// Sessions by owner and name: in memory with the scheduler, on disk in one folder.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
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

/// Where sessions are saved, and how much one owner may save there.
struct SessionFolder {
  std::string path;                          // empty = sessions live in memory only
  uint64_t max_bytes = uint64_t{256} << 30;  // of one owner's files together
  int64_t max_sessions = 1000;               // of one owner
};

/// Sessions of the owner without a name are FOLDER/NAME.session, those of others FOLDER/owners/OWNER/NAME.session.
/// Files are readable by this user alone, and so are folders made here. Anything else than a regular file, such as a
/// link or a pipe, counts as absent. Errors for clients name files without the folder.
///
/// Thread safe. A session is worked on by one thread at a time. Everything here may take as long as reading or writing
/// the session's memory does, beside the scheduler's steps.
class SessionStore {
 public:
  /// Takes the folder for this process and removes what a killed one left half written. kIo, kInvalidArgument when
  /// another server has it.
  static Result<std::unique_ptr<SessionStore>> Open(const SessionFolder& folder, const Model* model,
                                                    const CacheDefaults* defaults, Workspace* workspace,
                                                    Scheduler* scheduler);

  Result<std::vector<SessionEntry>> List(const std::string& owner) const;
  /// 507 when the disk or the owner's quota is full.
  std::optional<ApiError> Save(const SessionId& id, SessionEntry* saved);
  std::optional<ApiError> Restore(const SessionId& id, SessionEntry* restored);
  std::optional<ApiError> Delete(const SessionId& id);
  /// Restores a session that is on disk but not in memory; nothing to do for others.
  std::optional<ApiError> Need(const SessionId& id);
  /// Saves the sessions in memory that nobody uses now and that have changed since they were saved or restored. The
  /// first error, after trying all.
  Status SaveIdle();

  bool has_folder() const { return !folder_.path.empty(); }

 private:
  SessionStore(SessionFolder folder, std::optional<DirectoryLock> lock, const Model* model,
               const CacheDefaults* defaults, Workspace* workspace, Scheduler* scheduler);
  std::string FolderOf(const std::string& owner) const;
  std::string PathOf(const SessionId& id) const;
  bool OnDisk(const SessionId& id) const;
  Result<std::vector<std::string>> NamesOnDisk(const std::string& owner) const;
  std::optional<ApiError> RestoreFile(const SessionId& id);
  Status LoadFile(const SessionId& id);
  /// Writes the file of a session that is checked out.
  Status WriteFile(const SessionId& id, PooledSequence* sequence);
  /// The error without the folder, whose place clients must not learn.
  ApiError ForClient(const Status& status) const;

  /// One thread at a time for a session.
  class Turn;
  /// A part of an owner's quota, while a session is written.
  class Room;

  const SessionFolder folder_;
  std::optional<DirectoryLock> lock_;
  const Model* model_;
  const CacheDefaults* defaults_;
  Workspace* workspace_;
  Scheduler* scheduler_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<SessionId> in_work_;
  std::map<SessionId, uint64_t> being_written_;  // bytes
};

}  // namespace duo
