// The JSON of a request's body, bounded while it is parsed: what it becomes in memory is at most a few times its size.
// Untrusted bytes; fuzz/api_request_fuzz.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace duo {

/// Memory that the values of a body of so many bytes may take. A body of nothing but brackets would take 36 times its
/// size; chats take less than this factor even where every message is a word. Token ids are not counted: they may fill
/// a body, and are kept in four bytes each.
constexpr size_t MaxJsonMemory(size_t body_bytes) { return (256 << 10) + 12 * body_bytes; }

/// Memory that a body being parsed and answered may take, by its size; the test measures it.
constexpr size_t kMemoryPerBodyByte = 16;

/// Like ParseJson, without a place in its messages; kCorrupt too for values that take more than MaxJsonMemory. An array
/// of whole numbers 0..INT32_MAX, at least one, becomes packed ids, which the text of JSON has no other way to say.
Result<Json> ParseRequestJson(std::string_view body);

/// Whether a value is an array of token ids.
inline bool IsPackedIds(const Json& value) { return value.is_binary(); }
std::vector<int32_t> UnpackIds(const Json& packed);

/// JsonTypeName, for values of a request.
const char* RequestTypeName(const Json& value);

}  // namespace duo
