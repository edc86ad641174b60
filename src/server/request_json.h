// The JSON of a request's body, bounded while it is parsed: what it becomes in memory is at most a few times its size.
// Untrusted bytes; fuzz/api_request_fuzz.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace duo {

/// Values that a body of so many bytes may hold. A value costs up to a hundred bytes in memory and two in the body, so
/// a body of nothing but brackets is not taken. Requests for text have far fewer: one value in 8 bytes is a chat of
/// empty parts. Token ids are not counted: they may fill a body, and are kept in four bytes each.
constexpr size_t MaxJsonValues(size_t body_bytes) { return 1000 + body_bytes / 8; }

/// Memory that a body being parsed and answered may take, by its size; the test measures it.
constexpr size_t kMemoryPerBodyByte = 16;

/// Like ParseJson, without a place in its messages; kCorrupt too for more than MaxJsonValues. An array of whole numbers
/// 0..INT32_MAX, at least one, becomes packed ids, which the text of JSON has no other way to say.
Result<Json> ParseRequestJson(std::string_view body);

/// Whether a value is an array of token ids.
inline bool IsPackedIds(const Json& value) { return value.is_binary(); }
std::vector<int32_t> UnpackIds(const Json& packed);

/// JsonTypeName, for values of a request.
const char* RequestTypeName(const Json& value);

}  // namespace duo
