#include "eval/result_log.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/file.h"

namespace duo {
namespace {

constexpr size_t kMaxBytes = size_t{4} << 30;
constexpr const char* kRecipe = "recipe";

}  // namespace

Result<ResultLog> ResultLog::Open(const std::string& directory, const std::string& name, const Json& recipe) {
  ResultLog log;
  DUO_RETURN_IF_ERROR(MakeDirectories(directory));
  DUO_ASSIGN_OR_RETURN(log.lock_, DirectoryLock::Take(directory));
  log.path_ = directory + "/" + name;
  DUO_RETURN_IF_ERROR(CheckReplaceable(log.path_));
  if (!FileExists(log.path_)) {
    DUO_RETURN_IF_ERROR(WriteFileAtomic(log.path_, JsonText({{kRecipe, recipe}}) + "\n"));
    return log;
  }
  DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(log.path_, kMaxBytes));
  size_t whole = 0;
  DUO_RETURN_IF_ERROR(log.Load(text, recipe, &whole));
  if (whole < text.size()) {
    std::error_code error;
    std::filesystem::resize_file(log.path_, whole, error);
    if (error) return IoError("{}: cannot be shortened: {}", log.path_, error.message());
  }
  return log;
}

Status ResultLog::Load(std::string_view text, const Json& recipe, size_t* whole) {
  size_t number = 0;
  for (size_t end; (end = text.find('\n', *whole)) != std::string_view::npos; *whole = end + 1) {
    const std::string where = fmt::format("{}: line {}", path_, ++number);
    DUO_ASSIGN_OR_RETURN(Json line, ParseJson(text.substr(*whole, end - *whole), where));
    if (!line.is_object()) return Corrupt("{}: expected an object", where);
    if (number == 1) {
      const auto there = line.find(kRecipe);
      if (there == line.end()) return Corrupt("{}: recipe: missing; it is not a log of duo", where);
      const std::string difference = JsonDifference(*there, recipe);
      if (!difference.empty()) {
        return InvalidArgument(
            "{}: the results there have {}; give the same options to continue them, or another folder", path_,
            difference);
      }
      continue;
    }
    DUO_ASSIGN_OR_RETURN(const std::string key, JsonString(line, "key", where));
    records_[key] = std::move(line);
  }
  if (number == 0) return Corrupt("{}: line 1: recipe: missing; it is not a log of duo", path_);
  return OkStatus();
}

const Json* ResultLog::Find(const std::string& key) const {
  const auto it = records_.find(key);
  return it == records_.end() ? nullptr : &it->second;
}

Status ResultLog::Append(const std::string& key, Json record) {
  record["key"] = key;
  DUO_RETURN_IF_ERROR(WriteLine(record));
  records_[key] = std::move(record);
  return OkStatus();
}

// Calls write() once, so a killed process leaves a whole line, or one without an end.
Status ResultLog::WriteLine(const Json& line) const {
  if (path_.empty()) return OkStatus();
  const std::string text = JsonText(line) + "\n";
  const int fd = open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  ssize_t written = fd < 0 ? -1 : write(fd, text.data(), text.size());
  const int error = errno;
  if (fd >= 0) close(fd);
  if (written == std::ssize(text)) return OkStatus();
  return IoError("{}: cannot be written: {}", path_, (written < 0 ? std::strerror(error) : "no space"));
}

}  // namespace duo
