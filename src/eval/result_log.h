// What an evaluation has computed so far, one JSON line each, so that a run that was stopped or killed goes on where it
// ended and gives the same table as one that was not.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/directory_lock.h"
#include "base/json.h"
#include "duo/result.h"

namespace duo {

class ResultLog {
 public:
  /// In memory only.
  ResultLog() = default;

  /// `directory`/`name`, made when it is missing; no other process may use the directory meanwhile. The file's first
  /// line is `recipe`, which decides the results: kInvalidArgument, with the member that differs, when the file there
  /// was made from another one. A last line without its end (a killed run) is dropped. kCorrupt names file and line.
  static Result<ResultLog> Open(const std::string& directory, const std::string& name, const Json& recipe);

  /// What Append was given under this key, or null. Valid until the next Append.
  const Json* Find(const std::string& key) const;
  /// `record`: an object. On disk before it returns, as far as a killed process is concerned. kIo.
  Status Append(const std::string& key, Json record);

  size_t size() const { return records_.size(); }

 private:
  Status Load(std::string_view text, const Json& recipe, size_t* whole);
  Status WriteLine(const Json& line) const;

  std::string path_;  // empty: in memory only
  std::map<std::string, Json> records_;
  std::optional<DirectoryLock> lock_;
};

}  // namespace duo
