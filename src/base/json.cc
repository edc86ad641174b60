#include "base/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/strings.h"

namespace duo {
namespace {

constexpr int kMaxNesting = 64;

// The nesting is limited before the parser builds a tree, so that destroying the tree cannot exhaust the stack.
bool NestsDeeperThan(std::string_view text, int limit) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > limit) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

Status Mismatch(const std::string& where, const char* key, const char* expected, const Json* found) {
  if (found == nullptr) return Corrupt("{}: {}: expected {}, found nothing", where, key, expected);
  std::string text = JsonText(*found);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return Corrupt("{}: {}: expected {}, found {} {}", where, key, expected, JsonTypeName(*found), text);
}

const Json* Find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

}  // namespace

std::string JsonErrorText(const std::exception& error) {
  const std::string_view text = error.what();
  if (!text.starts_with("[json.exception.")) return std::string(text);
  const size_t end = text.find("] ");
  return std::string(end == std::string_view::npos ? text : text.substr(end + 2));
}

Result<Json> ParseJson(std::string_view text, const std::string& where) {
  if (NestsDeeperThan(text, kMaxNesting)) {
    return Corrupt("{}: JSON nested deeper than {} levels", where, kMaxNesting);
  }
  // The library reads a NUL as the end of the text.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return Corrupt("{}: not valid JSON: a NUL at byte {}", where, nul);
  }
  try {
    return Json::parse(text);
  } catch (const std::exception& e) {
    return Corrupt("{}: not valid JSON: {}", where, JsonErrorText(e));
  }
}

Status ForEachJsonLine(std::string_view text, const std::string& path, const JsonLine& line) {
  int64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view bytes = text.substr(at, end - at);
    at = end + 1;
    ++number;
    if (Trim(bytes).empty()) continue;
    const std::string where = fmt::format("{}: line {}", path, number);
    DUO_ASSIGN_OR_RETURN(const Json value, ParseJson(bytes, where));
    DUO_RETURN_IF_ERROR(line(value, where));
  }
  return OkStatus();
}

const Json* JsonOptional(const Json& object, const char* key) {
  const Json* found = Find(object, key);
  return found == nullptr || found->is_null() ? nullptr : found;
}

Result<int64_t> JsonInt(const Json& object, const char* key, const std::string& where) {
  const Json* v = Find(object, key);
  if (v != nullptr && v->is_number_unsigned() && v->get<uint64_t>() <= INT64_MAX) {
    return v->get<int64_t>();
  }
  if (v != nullptr && v->is_number_integer() && !v->is_number_unsigned()) return v->get<int64_t>();
  // Some exporters write whole numbers as 8192.0.
  if (v != nullptr && v->is_number_float()) {
    const double d = v->get<double>();
    if (std::floor(d) == d && std::fabs(d) < 9e15) return static_cast<int64_t>(d);
  }
  return Mismatch(where, key, "a whole number", v);
}

Result<int64_t> JsonIntOr(const Json& object, const char* key, int64_t fallback, const std::string& where) {
  if (JsonOptional(object, key) == nullptr) return fallback;
  return JsonInt(object, key, where);
}

Result<double> JsonNumber(const Json& object, const char* key, const std::string& where) {
  const Json* v = Find(object, key);
  if (v != nullptr && v->is_number()) return v->get<double>();
  return Mismatch(where, key, "a number", v);
}

Result<double> JsonNumberOr(const Json& object, const char* key, double fallback, const std::string& where) {
  if (JsonOptional(object, key) == nullptr) return fallback;
  return JsonNumber(object, key, where);
}

Result<std::string> JsonString(const Json& object, const char* key, const std::string& where) {
  const Json* v = Find(object, key);
  if (v != nullptr && v->is_string()) return v->get<std::string>();
  return Mismatch(where, key, "a string", v);
}

Result<std::string> JsonStringOr(const Json& object, const char* key, std::string_view fallback,
                                 const std::string& where) {
  if (JsonOptional(object, key) == nullptr) return std::string(fallback);
  return JsonString(object, key, where);
}

Result<bool> JsonBoolOr(const Json& object, const char* key, bool fallback, const std::string& where) {
  const Json* v = JsonOptional(object, key);
  if (v == nullptr) return fallback;
  if (v->is_boolean()) return v->get<bool>();
  return Mismatch(where, key, "true or false", v);
}

std::string JsonText(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

Result<const Json*> JsonMember(const Json& object, const char* key, const std::string& where) {
  const Json* found = Find(object, key);
  if (found == nullptr) return Corrupt("{}: {}: missing", where, key);
  return found;
}

std::string JsonDifference(const Json& then, const Json& now) {
  for (const auto& [key, value] : now.items()) {
    const Json* there = Find(then, key.c_str());
    if (there != nullptr && *there == value) continue;
    return fmt::format("{} {}, not {}", key, there == nullptr ? "missing" : JsonText(*there), JsonText(value));
  }
  return "";
}

const char* JsonTypeName(const Json& value) { return value.type_name(); }

}  // namespace duo
