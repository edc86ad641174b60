#include "server/session_store.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/memory_info.h"
#include "server/api_request.h"

namespace duo {
namespace {

constexpr const char* kSuffix = ".session";
// Owners have a folder of their own, so that no owner's name can look like a session's.
constexpr const char* kOwners = "/owners";

ApiError NoFolder() {
  ApiError error;
  error.message = "this server does not save sessions: it was started without a folder for them";
  return error;
}

ApiError NoSession(const std::string& name, const char* where) {
  ApiError error;
  error.http_status = 404;
  error.type = "not_found_error";
  error.code = "session_not_found";
  error.message = "there is no session \"" + name + "\" " + where;
  return error;
}

ApiError Conflict(const std::string& message) {
  ApiError error;
  error.http_status = 409;
  error.type = "conflict_error";
  error.message = message;
  return error;
}

uint64_t FileBytes(const std::string& path) { return PlainFileBytes(path).value_or(0); }

/// A close upper bound of a session file's size. The bytes in memory are counted in whole blocks.
uint64_t BytesToWrite(const Session& session) { return session.kv_bytes() + session.len() * (sizeof(int32_t) + 1); }

/// Finds a full disk before gigabytes are written.
Status CheckDiskSpace(const std::string& folder, uint64_t bytes) {
  struct statvfs info {};
  if (statvfs(folder.c_str(), &info) != 0) return OkStatus();  // the write itself will tell
  const uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
  if (bytes <= free_bytes) return OkStatus();
  return IoError("the session needs {} on disk, but only {} are free", FormatBytes(bytes), FormatBytes(free_bytes));
}

/// Session::Save writes under such names and renames the file when it is complete. The folder is locked, so no other
/// process is writing one.
void RemoveUnfinished(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.find(std::string(kSuffix) + ".tmp") != std::string::npos) std::filesystem::remove(entry.path(), error);
  }
}

}  // namespace

// While a session's file is read or written, `mutex_` is not held. So saves of different sessions run at the same time.
// The scheduler's and the pool's mutexes are not taken while it is held.

class SessionStore::SessionLock {
 public:
  SessionLock(SessionStore* store, SessionId id) : store_(store), id_(std::move(id)) {
    // Waits instead of failing: the other thread's work ends by itself, and this one then finds its result.
    MutexLock lock(&store_->mutex_);
    store_->changed_.wait(lock.native(),
                          [this]() DUO_REQUIRES(store_->mutex_) { return store_->in_work_.count(id_) == 0; });
    store_->in_work_.insert(id_);
  }
  ~SessionLock() {
    MutexLock lock(&store_->mutex_);
    store_->in_work_.erase(id_);
    store_->changed_.notify_all();
  }
  SessionLock(const SessionLock&) = delete;
  SessionLock& operator=(const SessionLock&) = delete;

 private:
  SessionStore* store_;
  SessionId id_;
};

class SessionStore::QuotaClaim {
 public:
  QuotaClaim(SessionStore* store, SessionId id) : store_(store), id_(std::move(id)) {}
  ~QuotaClaim() {
    MutexLock lock(&store_->mutex_);
    store_->being_written_.erase(id_);
  }
  QuotaClaim(const QuotaClaim&) = delete;
  QuotaClaim& operator=(const QuotaClaim&) = delete;

  /// Fails with kIo when the owner would have too many files or too many bytes with this one.
  Status Claim(uint64_t bytes) {
    // The mutex is held from the count to the claim. Otherwise two writes could both take the last free bytes.
    MutexLock lock(&store_->mutex_);
    std::map<std::string, uint64_t> others;
    DUO_ASSIGN_OR_RETURN(const std::vector<std::string> names, store_->NamesOnDisk(id_.owner));
    for (const std::string& name : names) others[name] = FileBytes(store_->PathOf({id_.owner, name}));
    // A session that is being written counts with its new size, unless its old file is larger.
    for (const auto& [id, n] : store_->being_written_) {
      if (id.owner == id_.owner) others[id.name] = std::max(others[id.name], n);
    }
    others.erase(id_.name);  // its old file is replaced
    const SessionFolder& folder = store_->folder_;
    if (std::ssize(others) >= folder.max_sessions) {
      return IoError("{} sessions are saved, which is the limit; delete one, or start the server with a higher limit",
                     others.size());
    }
    uint64_t used = 0;
    for (const auto& other : others) used += other.second;
    // The quota may be smaller than in the run that wrote the files.
    if (used > folder.max_bytes || bytes > folder.max_bytes - used) {
      return IoError(
          "the session needs {}, but the saved ones take {} of the quota of {}; delete one, or start the server with a "
          "larger quota",
          FormatBytes(bytes), FormatBytes(used), FormatBytes(folder.max_bytes));
    }
    store_->being_written_[id_] = bytes;
    return OkStatus();
  }

 private:
  SessionStore* store_;
  SessionId id_;
};

SessionStore::SessionStore(SessionFolder folder, std::optional<DirectoryLock> lock, const Model* model,
                           const CacheDefaults* defaults, Workspace* workspace, Scheduler* scheduler)
    : folder_(std::move(folder)),
      lock_(std::move(lock)),
      model_(model),
      defaults_(defaults),
      workspace_(workspace),
      scheduler_(scheduler) {}

Result<std::unique_ptr<SessionStore>> SessionStore::Open(const SessionFolder& folder, const Model* model,
                                                         const CacheDefaults* defaults, Workspace* workspace,
                                                         Scheduler* scheduler) {
  std::optional<DirectoryLock> lock;
  if (!folder.path.empty()) {
    DUO_RETURN_IF_ERROR(MakePrivateDirectories(folder.path));
    Result<DirectoryLock> taken = DirectoryLock::Take(folder.path);
    if (!taken.ok()) return taken.status();
    lock = *std::move(taken);
    // Files of a run that was killed would otherwise take disk space for ever, and count in nobody's quota.
    RemoveUnfinished(folder.path);
    std::error_code none;  // not an error: no owner with a name has saved yet
    for (const auto& entry : std::filesystem::directory_iterator(folder.path + kOwners, none)) {
      RemoveUnfinished(entry.path().string());
    }
  }
  return std::unique_ptr<SessionStore>(
      new SessionStore(folder, std::move(lock), model, defaults, workspace, scheduler));
}

std::string SessionStore::FolderOf(const std::string& owner) const {
  return owner.empty() ? folder_.path : folder_.path + kOwners + "/" + owner;
}

std::string SessionStore::PathOf(const SessionId& id) const { return FolderOf(id.owner) + "/" + id.name + kSuffix; }

bool SessionStore::OnDisk(const SessionId& id) const { return has_folder() && PlainFileBytes(PathOf(id)).has_value(); }

// Errors of lower rooms name a file by its path. A path can occur more than once in a sentence.
ApiError SessionStore::ForClient(const Status& status) const {
  ApiError error = FromStatus(status);
  for (const std::string& folder : {folder_.path + kOwners + "/", folder_.path + "/"}) {
    for (size_t at = error.message.find(folder); at != std::string::npos; at = error.message.find(folder, at)) {
      error.message.erase(at, folder.size());
    }
  }
  return error;
}

Result<std::vector<std::string>> SessionStore::NamesOnDisk(const std::string& owner) const {
  std::vector<std::string> names;
  if (!has_folder()) return names;
  std::error_code error;
  std::filesystem::directory_iterator entries(FolderOf(owner), error);
  // An owner's folder is made with its first file.
  if (error == std::errc::no_such_file_or_directory && !owner.empty()) return names;
  if (error) return IoError("the sessions' folder cannot be listed: {}", error.message());
  for (const auto& entry : entries) {
    const std::filesystem::path& path = entry.path();
    // Other files of the folder are not ours, and clients could not name them.
    const bool is_name = path.extension() == kSuffix && IsSessionName(path.stem().string());
    if (is_name && PlainFileBytes(path.string())) names.push_back(path.stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A list is not one moment: a save may end after the names in memory were read, and before those on disk are.
Result<std::vector<SessionEntry>> SessionStore::List(const std::string& owner) const {
  std::vector<SessionEntry> entries;
  for (const NamedSequence& s : scheduler_->Named()) {
    if (s.id.owner != owner) continue;
    entries.push_back({.name = s.id.name,
                       .n_tokens = s.n_tokens,
                       .kv_bytes = s.kv_bytes,
                       .in_memory = true,
                       .busy = s.busy,
                       .on_disk = false,
                       .disk_bytes = 0});
  }
  DUO_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesOnDisk(owner));
  for (const std::string& name : names) {
    const std::string path = PathOf({owner, name});
    auto entry = std::find_if(entries.begin(), entries.end(), [&](const SessionEntry& e) { return e.name == name; });
    if (entry == entries.end()) {
      // A file that cannot be read is listed too, so that its owner can delete it.
      const auto info = ReadSessionFileInfo(path);
      entries.push_back({.name = name,
                         .n_tokens = info.ok() ? info->n_tokens : 0,
                         .kv_bytes = 0,
                         .in_memory = false,
                         .busy = false,
                         .on_disk = true,
                         .disk_bytes = 0});
      entry = std::prev(entries.end());
    }
    entry->on_disk = true;
    entry->disk_bytes = FileBytes(path);
  }
  return entries;
}

ApiResult<SessionEntry> SessionStore::Save(const SessionId& id) {
  if (!has_folder()) return NoFolder();
  const SessionLock session_lock(this, id);
  // Requests for the session wait in the queue until the lease ends. All others go on.
  const Result<SequenceLease> lease = scheduler_->CheckOut(id);
  if (!lease.ok()) {
    if (lease.status().code() == StatusCode::kNotFound) return NoSession(id.name, "in memory");
    return FromStatus(lease.status());
  }
  const Session& session = *(*lease)->session;
  if (const Status status = WriteFile(id, *lease); !status.ok()) return ForClient(status);
  return SessionEntry{.name = id.name,
                      .n_tokens = session.len(),
                      .kv_bytes = session.kv_bytes(),
                      .in_memory = true,
                      .busy = false,
                      .on_disk = true,
                      .disk_bytes = FileBytes(PathOf(id))};
}

Status SessionStore::WriteFile(const SessionId& id, const SequenceLease& lease) {
  // Both checks come before the first byte. The claim lasts until the file has its name and counts by itself.
  const uint64_t bytes = BytesToWrite(*lease->session);
  DUO_RETURN_IF_ERROR(CheckDiskSpace(folder_.path, bytes));
  QuotaClaim quota(this, id);
  DUO_RETURN_IF_ERROR(quota.Claim(bytes));
  if (!id.owner.empty()) DUO_RETURN_IF_ERROR(MakePrivateDirectories(FolderOf(id.owner)));
  DUO_RETURN_IF_ERROR(lease->session->Save(PathOf(id), JsonText(ToJson(lease->spec))));
  lease->saved = true;
  return OkStatus();
}

ApiStatus SessionStore::RestoreFile(const SessionId& id) {
  const Status status = LoadFile(id);
  // A wrong file is a conflict with this server, not an error of the request.
  if (status.code() == StatusCode::kInvalidArgument) return Conflict(ForClient(status).message);
  if (!status.ok()) return ForClient(status);
  return ApiOk();
}

Status SessionStore::LoadFile(const SessionId& id) {
  const std::string path = PathOf(id);
  DUO_ASSIGN_OR_RETURN(const SessionFileInfo info, ReadSessionFileInfo(path));
  DUO_ASSIGN_OR_RETURN(const Json note, ParseJson(info.note, path + ": note"));
  DUO_ASSIGN_OR_RETURN(const CacheSpec spec, CacheSpecFromJson(note, path + ": note"));
  // The file says what its client asked for. This server may have another pattern or other defaults than the one that
  // wrote it.
  const Result<SessionOptions> options = ResolveSpec(spec, *defaults_, model_->config());
  if (!options.ok()) {
    const Status& why = options.status();
    const std::string field = why.subject().empty() ? "" : why.subject() + ": ";
    return Corrupt("{}: does not fit this server: {}{}", path, field, why.message());
  }
  // When a later step fails, the lease has no session yet, and its end removes the reservation.
  DUO_ASSIGN_OR_RETURN(const SequenceLease lease, scheduler_->Reserve(id, spec, *options, info.n_tokens));
  DUO_ASSIGN_OR_RETURN(Session session, Session::Load(*model_, *options, path, workspace_));
  lease->session = std::make_unique<Session>(std::move(session));
  lease->saved = true;
  return OkStatus();
}

ApiResult<SessionEntry> SessionStore::Restore(const SessionId& id) {
  if (!has_folder()) return NoFolder();
  const SessionLock session_lock(this, id);
  if (!OnDisk(id)) return NoSession(id.name, "on disk");
  // This is only the better sentence for the usual case. Reserve decides, because a request may start the session now.
  if (scheduler_->HasNamed(id)) {
    return Conflict("the session \"" + id.name +
                    "\" is in memory, so there is nothing to restore; use it, or delete it first");
  }
  DUO_RETURN_IF_API_ERROR(RestoreFile(id));
  SessionEntry restored;
  // A request may have taken the session over or evicted it already, so it is looked up once more.
  for (const NamedSequence& s : scheduler_->Named()) {
    if (s.id != id) continue;
    restored = {.name = id.name,
                .n_tokens = s.n_tokens,
                .kv_bytes = s.kv_bytes,
                .in_memory = true,
                .busy = s.busy,
                .on_disk = true,
                .disk_bytes = FileBytes(PathOf(id))};
  }
  return restored;
}

// The first of several requests for one session restores it. The others find it in memory. The first check is outside
// the session's lock, because most requests find their session there and need not wait for a save.
ApiStatus SessionStore::EnsureRestored(const SessionId& id) {
  if (!has_folder() || id.name.empty() || scheduler_->HasNamed(id)) return ApiOk();
  const SessionLock session_lock(this, id);
  if (scheduler_->HasNamed(id) || !OnDisk(id)) return ApiOk();
  return RestoreFile(id);
}

ApiStatus SessionStore::Delete(const SessionId& id) {
  const SessionLock session_lock(this, id);
  Result<SequenceLease> lease = scheduler_->CheckOut(id);
  if (lease.status().code() == StatusCode::kUnavailable) return FromStatus(lease.status());
  // The sequence goes first. If removing the file fails then, the client can try again.
  const bool on_disk = OnDisk(id);
  if (!lease.ok() && !on_disk) return NoSession(id.name, "here");
  if (lease.ok()) lease->Drop();
  if (!on_disk) return ApiOk();
  std::error_code error;
  std::filesystem::remove(PathOf(id), error);
  if (error) return ForClient(IoError("{}: cannot be removed: {}", PathOf(id), error.message()));
  return ApiOk();
}

Status SessionStore::SaveIdle() {
  Status first;
  // Requests may still run. Each session is saved as it is when its lease begins.
  for (const NamedSequence& s : scheduler_->Named()) {
    const SessionLock session_lock(this, s.id);
    const Result<SequenceLease> lease = scheduler_->CheckOut(s.id);
    if (!lease.ok()) continue;  // a request uses it, or it was evicted since
    // Someone may have removed the file since it was saved.
    const bool as_on_disk = (*lease)->saved && OnDisk(s.id);
    const Status status = as_on_disk ? OkStatus() : WriteFile(s.id, *lease);
    if (first.ok()) first = status;
  }
  return first;
}

}  // namespace duo
