// Parses the JSON of a request's body with a bound on memory: the values take at most a few times the body's size.
// Untrusted bytes; see fuzz/api_request_fuzz.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace duo {

/// Max memory for the values of a body of this many bytes. A body of only brackets would take 36 times its size. Chats
/// take less than the factor here, even if every message is one word. Token ids are not counted: they may fill a body,
/// and each takes four bytes.
constexpr size_t MaxJsonMemory(size_t body_bytes) { return (256 << 10) + 12 * body_bytes; }

/// Max memory per byte of a body while it is parsed and answered. A test measures it.
constexpr size_t kMemoryPerBodyByte = 16;

/// Like ParseJson, but the messages do not begin with a place. Also fails with kCorrupt for values that take more than
/// MaxJsonMemory. A non-empty array of integers in 0..INT32_MAX becomes packed ids: a binary value, which no JSON text
/// produces otherwise.
Result<Json> ParseRequestJson(std::string_view body);

/// Whether a value is an array of token ids in packed form.
inline bool IsPackedIds(const Json& value) { return value.is_binary(); }
std::vector<int32_t> UnpackIds(const Json& packed);

/// Like JsonTypeName, but packed ids are an array.
const char* RequestTypeName(const Json& value);

}  // namespace duo
