// JSON text to values, with errors as sentences. The JSON library throws; nothing thrown leaves these functions.
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

/// The library's sentence about an exception of its own, without the exception's name: for messages.
std::string JsonErrorText(const std::exception& error);

/// `where` (usually the file's path) begins every message. kCorrupt with line/byte position on a syntax error, on
/// invalid UTF-8 and on nesting deeper than 64 levels.
Result<Json> ParseJson(std::string_view text, const std::string& where);

/// JSON lines: `line` gets each line's value and "<path>: line <number>" for its messages; blank lines are left out.
/// Stops with the first error, which is as ParseJson's or `line`'s.
using JsonLine = std::function<Status(const Json& value, const std::string& where)>;
Status ForEachJsonLine(std::string_view text, const std::string& path, const JsonLine& line);

/// Typed members of `object`. Missing or of another type: kCorrupt "<where>: <key>: expected ..., found ...".
/// The *Or forms return `fallback` when the key is missing or null, and the same error for a wrong type.
Result<int64_t> JsonInt(const Json& object, const char* key, const std::string& where);
Result<int64_t> JsonIntOr(const Json& object, const char* key, int64_t fallback, const std::string& where);
Result<double> JsonNumber(const Json& object, const char* key, const std::string& where);
Result<double> JsonNumberOr(const Json& object, const char* key, double fallback, const std::string& where);
Result<std::string> JsonString(const Json& object, const char* key, const std::string& where);
Result<std::string> JsonStringOr(const Json& object, const char* key, std::string_view fallback,
                                 const std::string& where);
Result<bool> JsonBoolOr(const Json& object, const char* key, bool fallback, const std::string& where);

/// Text of a value, on one line or indented by so many blanks. Names of files and models need not be UTF-8, which JSON
/// must be: bytes that are not become U+FFFD.
std::string JsonText(const Json& value, int indent = -1);

/// A member of any type, borrowed from `object`. kCorrupt "<where>: <key>: missing", also when it is no object.
Result<const Json*> JsonMember(const Json& object, const char* key, const std::string& where);

/// Empty when every member of `now` is in `then` with the same value; else what differs first: `<key> <then's>, not
/// <now's>`. For runs that go on only with the options they began with.
std::string JsonDifference(const Json& then, const Json& now);

/// "object", "array", "string", "number"... of a value, for messages.
const char* JsonTypeName(const Json& value);

}  // namespace duo
