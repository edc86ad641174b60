// Keeps the results that an evaluation has computed so far, one JSON line each. A run that was stopped or killed
// continues where it ended, and gives the same table as a run that was not.
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
  /// A log in memory only.
  ResultLog() = default;

  /// Opens `directory`/`name` and creates it if it is missing. No other process may use the directory at the same time.
  /// The first line of the file is `recipe`, which determines the results. kInvalidArgument, with the member that
  /// differs, when the existing file has another recipe. A last line without its end (a killed run) is dropped.
  /// kCorrupt names file and line.
  static Result<ResultLog> Open(const std::string& directory, const std::string& name, const Json& recipe);

  /// The record appended under `key`, or null. Valid until the next Append.
  const Json* Find(const std::string& key) const;
  /// `record` is an object. Once Append returns, the record survives a kill of the process. kIo.
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
