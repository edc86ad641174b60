// Parses JSON, with errors as sentences. The JSON library throws exceptions; these functions do not.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

using Json = nlohmann::json;

/// The message of an exception of the JSON library, without the exception's name.
std::string JsonErrorText(const std::exception& error);

/// `where` (usually the file's path) begins every message. Returns kCorrupt, with line and byte, for a syntax error,
/// invalid UTF-8, or nesting deeper than 64 levels.
Result<Json> ParseJson(std::string_view text, const std::string& where);

/// Parses JSON lines and skips blank ones. `line` gets each line's value, and "<path>: line <number>" for its messages.
/// Returns the first error of ParseJson or `line`.
using JsonLine = std::function<Status(const Json& value, const std::string& where)>;
Status ForEachJsonLine(std::string_view text, const std::string& path, const JsonLine& line);

/// The member `key`, borrowed from `object`. nullptr when it is missing or null, or when `object` is not an object.
const Json* JsonOptional(const Json& object, const char* key);

/// Typed members of `object`. A missing key or another type gives kCorrupt "<where>: <key>: expected ..., found ...".
/// The *Or forms return `fallback` when the key is missing or null, and the same error for another type.
Result<int64_t> JsonInt(const Json& object, const char* key, const std::string& where);
Result<int64_t> JsonIntOr(const Json& object, const char* key, int64_t fallback, const std::string& where);
Result<double> JsonNumber(const Json& object, const char* key, const std::string& where);
Result<double> JsonNumberOr(const Json& object, const char* key, double fallback, const std::string& where);
Result<std::string> JsonString(const Json& object, const char* key, const std::string& where);
Result<std::string> JsonStringOr(const Json& object, const char* key, std::string_view fallback,
                                 const std::string& where);
Result<bool> JsonBoolOr(const Json& object, const char* key, bool fallback, const std::string& where);

/// The text of a value, on one line or indented by `indent` blanks. JSON must be UTF-8, but names of files and models
/// need not be. Bytes that are not UTF-8 become U+FFFD.
std::string JsonText(const Json& value, int indent = -1);

/// A member of any type, borrowed from `object`. kCorrupt "<where>: <key>: missing" when there is none, or when
/// `object` is not an object.
Result<const Json*> JsonMember(const Json& object, const char* key, const std::string& where);

/// Empty when every member of `now` is in `then` with the same value. Otherwise the first difference: `<key> <then's>,
/// not <now's>`. For runs that may only be resumed with the options they began with.
std::string JsonDifference(const Json& then, const Json& now);

/// The type of a value for messages: "object", "array", "string", "number"...
const char* JsonTypeName(const Json& value);

}  // namespace duo
