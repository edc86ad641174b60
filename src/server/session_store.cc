#include "server/session_store.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/memory_info.h"
#include "server/api_request.h"

namespace duo {
namespace {

constexpr const char* kSuffix = ".session";

ApiError NoFolder() {
  ApiError error;
  error.message = "this server keeps no sessions on disk: it was started without a folder for them";
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

uint64_t FileBytes(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

/// A full disk is better noticed before gigabytes are written.
Status CheckDiskSpace(const std::string& folder, uint64_t bytes) {
  struct statvfs info {};
  if (statvfs(folder.c_str(), &info) != 0) return OkStatus();
  const uint64_t free_bytes = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  if (bytes <= free_bytes) return OkStatus();
  return Status(StatusCode::kIo,
                folder + ": the session needs " + FormatBytes(bytes) + ", " + FormatBytes(free_bytes) + " are free");
}

}  // namespace

class SessionStore::Turn {
 public:
  Turn(SessionStore* store, std::string name) : store_(store), name_(std::move(name)) {
    std::unique_lock lock(store_->mutex_);
    store_->changed_.wait(lock, [this] { return store_->in_work_.count(name_) == 0; });
    store_->in_work_.insert(name_);
  }
  ~Turn() {
    const std::lock_guard lock(store_->mutex_);
    store_->in_work_.erase(name_);
    store_->changed_.notify_all();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  SessionStore* store_;
  std::string name_;
};

SessionStore::SessionStore(std::string folder, std::optional<DirectoryLock> lock, const Model* model,
                           const CacheDefaults* defaults, Workspace* workspace, Scheduler* scheduler)
    : folder_(std::move(folder)),
      lock_(std::move(lock)),
      model_(model),
      defaults_(defaults),
      workspace_(workspace),
      scheduler_(scheduler) {}

Result<std::unique_ptr<SessionStore>> SessionStore::Open(const std::string& folder, const Model* model,
                                                         const CacheDefaults* defaults, Workspace* workspace,
                                                         Scheduler* scheduler) {
  std::optional<DirectoryLock> lock;
  if (!folder.empty()) {
    DUO_RETURN_IF_ERROR(MakeDirectories(folder));
    Result<DirectoryLock> taken = DirectoryLock::Take(folder);
    if (!taken.ok()) return taken.status();
    lock = *std::move(taken);
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename().string();
      if (name.find(std::string(kSuffix) + ".tmp") != std::string::npos) std::filesystem::remove(entry.path(), error);
    }
  }
  return std::unique_ptr<SessionStore>(
      new SessionStore(folder, std::move(lock), model, defaults, workspace, scheduler));
}

std::string SessionStore::PathOf(const std::string& name) const { return folder_ + "/" + name + kSuffix; }

Result<std::vector<std::string>> SessionStore::NamesOnDisk() const {
  std::vector<std::string> names;
  if (folder_.empty()) return names;
  std::error_code error;
  std::filesystem::directory_iterator entries(folder_, error);
  if (error) return Status(StatusCode::kIo, folder_ + ": cannot be listed: " + error.message());
  for (const auto& entry : entries) {
    const std::filesystem::path& path = entry.path();
    if (path.extension() == kSuffix && IsSessionName(path.stem().string())) names.push_back(path.stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::vector<SessionEntry>> SessionStore::List() const {
  std::vector<SessionEntry> entries;
  for (const NamedSequence& s : scheduler_->Named()) {
    entries.push_back({.name = s.name,
                       .n_tokens = s.n_tokens,
                       .kv_bytes = s.kv_bytes,
                       .in_memory = true,
                       .busy = s.busy,
                       .on_disk = false,
                       .disk_bytes = 0});
  }
  DUO_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesOnDisk());
  for (const std::string& name : names) {
    auto entry = std::find_if(entries.begin(), entries.end(), [&](const SessionEntry& e) { return e.name == name; });
    if (entry == entries.end()) {
      const auto info = ReadSessionFileInfo(PathOf(name));
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
    entry->disk_bytes = FileBytes(PathOf(name));
  }
  return entries;
}

Status SessionStore::WriteFile(PooledSequence* sequence) const {
  const Session& session = *sequence->session;
  DUO_RETURN_IF_ERROR(CheckDiskSpace(folder_, session.kv_bytes()));
  DUO_RETURN_IF_ERROR(session.Save(PathOf(sequence->name), JsonText(ToJson(sequence->spec))));
  sequence->saved = true;
  return OkStatus();
}

std::optional<ApiError> SessionStore::Save(const std::string& name, SessionEntry* saved) {
  if (folder_.empty()) return NoFolder();
  const Turn turn(this, name);
  const auto sequence = scheduler_->CheckOut(name);
  if (!sequence.ok()) {
    if (sequence.status().code() == StatusCode::kNotFound) return NoSession(name, "in memory");
    return FromStatus(sequence.status());
  }
  const Session& session = *(*sequence)->session;
  const Status status = WriteFile(*sequence);
  *saved = {.name = name,
            .n_tokens = session.len(),
            .kv_bytes = session.kv_bytes(),
            .in_memory = true,
            .busy = false,
            .on_disk = status.ok(),
            .disk_bytes = FileBytes(PathOf(name))};
  scheduler_->CheckIn(*sequence);
  if (!status.ok()) return FromStatus(status);
  return std::nullopt;
}

std::optional<ApiError> SessionStore::RestoreFile(const std::string& name) {
  const Status status = LoadFile(name);
  // What is wrong with a file is a conflict with this server, not with the request.
  if (status.code() == StatusCode::kInvalidArgument) return Conflict(status.message());
  if (!status.ok()) return FromStatus(status);
  return std::nullopt;
}

Status SessionStore::LoadFile(const std::string& name) {
  const std::string path = PathOf(name);
  DUO_ASSIGN_OR_RETURN(const SessionFileInfo info, ReadSessionFileInfo(path));
  DUO_ASSIGN_OR_RETURN(const Json note, ParseJson(info.note, path + ": note"));
  DUO_ASSIGN_OR_RETURN(const CacheSpec spec, CacheSpecFromJson(note, path + ": note"));
  const Result<SessionOptions> options = ResolveSpec(spec, *defaults_, model_->config());
  if (!options.ok())
    return Status(StatusCode::kCorrupt, path + ": does not fit this server: " + options.status().message());
  DUO_ASSIGN_OR_RETURN(PooledSequence* const sequence, scheduler_->Reserve(name, spec, *options, info.n_tokens));
  Result<Session> session = Session::Load(*model_, *options, path, workspace_);
  if (!session.ok()) {
    scheduler_->Drop(sequence);
    return session.status();
  }
  sequence->session = std::make_unique<Session>(*std::move(session));
  sequence->saved = true;
  scheduler_->CheckIn(sequence);
  return OkStatus();
}

std::optional<ApiError> SessionStore::Restore(const std::string& name, SessionEntry* restored) {
  if (folder_.empty()) return NoFolder();
  const Turn turn(this, name);
  if (!FileExists(PathOf(name))) return NoSession(name, "on disk");
  if (scheduler_->HasNamed(name)) {
    return Conflict("the session \"" + name + "\" is in memory; delete it or ask it, there is nothing to restore");
  }
  if (auto error = RestoreFile(name)) return error;
  for (const NamedSequence& s : scheduler_->Named()) {
    if (s.name == name) {
      *restored = {.name = name,
                   .n_tokens = s.n_tokens,
                   .kv_bytes = s.kv_bytes,
                   .in_memory = true,
                   .busy = s.busy,
                   .on_disk = true,
                   .disk_bytes = FileBytes(PathOf(name))};
    }
  }
  return std::nullopt;
}

// Of several requests for one session the first restores it, the others find it in memory.
std::optional<ApiError> SessionStore::Need(const std::string& name) {
  if (folder_.empty() || name.empty() || scheduler_->HasNamed(name)) return std::nullopt;
  const Turn turn(this, name);
  if (scheduler_->HasNamed(name) || !FileExists(PathOf(name))) return std::nullopt;
  return RestoreFile(name);
}

std::optional<ApiError> SessionStore::Delete(const std::string& name) {
  const Turn turn(this, name);
  const auto sequence = scheduler_->CheckOut(name);
  if (sequence.status().code() == StatusCode::kUnavailable) return FromStatus(sequence.status());
  const bool on_disk = !folder_.empty() && FileExists(PathOf(name));
  if (!sequence.ok() && !on_disk) return NoSession(name, "here");
  if (sequence.ok()) scheduler_->Drop(*sequence);
  if (!on_disk) return std::nullopt;
  std::error_code error;
  std::filesystem::remove(PathOf(name), error);
  if (error) return FromStatus(Status(StatusCode::kIo, PathOf(name) + ": cannot be removed: " + error.message()));
  return std::nullopt;
}

Status SessionStore::SaveIdle() {
  Status first;
  for (const NamedSequence& s : scheduler_->Named()) {
    const Turn turn(this, s.name);
    const auto sequence = scheduler_->CheckOut(s.name);
    if (!sequence.ok()) continue;
    const bool as_on_disk = (*sequence)->saved && FileExists(PathOf(s.name));
    const Status status = as_on_disk ? OkStatus() : WriteFile(*sequence);
    if (first.ok()) first = status;
    scheduler_->CheckIn(*sequence);
  }
  return first;
}

}  // namespace duo
