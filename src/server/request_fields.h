// Reads the members of a request's JSON objects and checks their types and ranges.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "base/json.h"
#include "server/api_error.h"

namespace duo {

/// The value as an integer. Accepts 3.0 too, since JSON schemas treat it as an integer.
std::optional<int64_t> WholeNumber(const Json& value);

/// Reads the members of one object and remembers the first error. Finish refuses members that were never read.
class RequestFields {
 public:
  /// `object` must outlive it. `prefix` is the object's path in the body, for errors; empty = the body.
  RequestFields(const Json& object, std::string prefix);

  /// The member, or a null pointer when it is missing or null.
  const Json* Get(const char* key);
  bool Bool(const char* key, bool fallback);
  std::optional<int64_t> Int(const char* key, int64_t low, int64_t high);
  std::optional<double> Real(const char* key, double low, double high);
  std::optional<std::string> Text(const char* key);
  /// For a field of OpenAI's interface that this server does not support: accepts only the value that has no effect.
  void Only(const char* key, const Json& neutral, const char* why);

  void Refuse(const std::string& key, const std::string& what);
  /// Takes over the error of a nested value, if it has one.
  void Pass(ApiStatus nested);
  static std::string Expected(const std::string& what, const Json& found);
  /// Returns the first error. A member that was never read is an error too.
  ApiStatus Finish();

 private:
  const Json& object_;
  std::string prefix_;
  std::set<std::string> known_;
  ApiStatus status_;  // the first error
};

}  // namespace duo
