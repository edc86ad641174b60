// The keys that clients may send, and their owners. Untrusted bytes; fuzz/api_keys_fuzz.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "duo/result.h"

namespace duo {

struct ApiKey {
  std::string name;  // its owner; empty when the server has one key without a name
  std::string key;
};

constexpr size_t kMaxApiKeys = 4096;
constexpr size_t kMaxApiKeyBytes = 1024;  // of one key

/// The keys of a file: a line "NAME KEY" for each, or one line that is a key. Blank lines and lines that begin with '#'
/// are left out. Names are what IsSessionName takes. kInvalidArgument names `path` and the line: a name or key that is
/// there twice, a bad name, a missing key, a key with characters that HTTP does not carry; a file without a key.
Result<std::vector<ApiKey>> ParseApiKeys(std::string_view text, const std::string& path);

}  // namespace duo
