// The API keys that clients may send, and their owners. Parses untrusted bytes; see fuzz/api_keys_fuzz.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "duo/result.h"

namespace duo {

struct ApiKey {
  std::string name;  // its owner; empty for a server with one key that has no name
  std::string key;
};

constexpr size_t kMaxApiKeys = 4096;
constexpr size_t kMaxApiKeyBytes = 1024;  // per key

/// Parses a key file: one line "NAME KEY" per key, or a single line that holds only a key. Skips blank lines and lines
/// that begin with '#'. A name must satisfy IsSessionName. Fails with kInvalidArgument for a bad name, a missing key, a
/// key with characters that HTTP cannot carry, and a file without keys. Names and keys must not occur twice. The error
/// names `path` and, except for a file without keys, the line.
Result<std::vector<ApiKey>> ParseApiKeys(std::string_view text, const std::string& path);

}  // namespace duo
