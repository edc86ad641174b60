// Parses any bytes as a file of API keys. Accepted keys can be sent in a header, and they identify their owners.
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "base/check.h"
#include "server/api_keys.h"
#include "server/api_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto keys = duo::ParseApiKeys({reinterpret_cast<const char*>(data), size}, "keys");
  if (!keys.ok()) {
    DUO_CHECK(keys.status().message().starts_with("keys: "), "an error names the file");
    return 0;
  }
  DUO_CHECK(!keys->empty() && keys->size() <= duo::kMaxApiKeys, "1 to kMaxApiKeys keys");
  std::set<std::string> names, values;
  for (const duo::ApiKey& key : *keys) {
    DUO_CHECK(!key.key.empty() && key.key.size() <= duo::kMaxApiKeyBytes, "a key's length");
    for (const char c : key.key) DUO_CHECK(c > 0x20 && c < 0x7f, "a key can be sent in a header");
    DUO_CHECK(duo::IsSessionName(key.name) || (key.name.empty() && keys->size() == 1), "a name is a folder's name");
    DUO_CHECK(names.insert(key.name).second && values.insert(key.key).second, "names and keys are unique");
  }
  return 0;
}
