#include "server/access.h"

#include <algorithm>
#include <string_view>

#include "server/ascii.h"

namespace duo {
namespace {

/// The owner name of callers without a key. They own nothing, because no key and no trust domain has this name.
constexpr std::string_view kNobody = "?";

/// Compares in time that depends only on the lengths.
bool SameSecret(const std::string& a, const std::string& b) {
  int difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) difference |= a[i] ^ (b.empty() ? 0 : b[i % b.size()]);
  return difference == 0;
}

/// The server's key that the request carries, or null. Takes the same time whichever key it is.
const ApiKey* KeyOf(const AccessRules& rules, const httplib::Request& request) {
  constexpr std::string_view kScheme = "bearer ";  // in upper or lower case (RFC 9110 11.1)
  std::string given = request.get_header_value("Authorization");
  for (size_t i = 0; i < std::min(given.size(), kScheme.size()); ++i) given[i] = LowerAscii(given[i]);
  const ApiKey* found = nullptr;
  for (const ApiKey& key : rules.api_keys) {
    if (SameSecret(std::string(kScheme) + key.key, given)) found = &key;
  }
  return found;
}

/// Whether a request needs no key: health and the files of the page hold no secrets.
bool IsOpen(const AccessRules& rules, const httplib::Request& request) {
  if (request.path == "/health") return true;
  const bool at_the_root = request.path == "/" || request.path.find('/', 1) == std::string::npos;
  const bool reads = request.method == "GET" || request.method == "HEAD";
  return rules.page && reads && at_the_root && request.path != "/metrics";
}

}  // namespace

ApiStatus CheckAccess(const AccessRules& rules, const httplib::Request& request) {
  DUO_RETURN_IF_API_ERROR(CheckSite(rules.site, request));
  const std::string encoding = request.get_header_value("Content-Encoding");
  if (!encoding.empty() && encoding != "identity") {
    return PlainError(415, "Content-Encoding: compressed bodies are not supported; send the body as it is");
  }
  const bool has_body = request.method == "POST" && request.path.find("/v1/sessions/") != 0;
  if (has_body && request.get_header_value("Content-Type").rfind("application/json", 0) != 0) {
    return PlainError(415, "Content-Type: expected application/json");
  }
  if (rules.api_keys.empty() || IsOpen(rules, request) || KeyOf(rules, request) != nullptr) return ApiOk();
  ApiError error = PlainError(401, "the API key is missing or unknown; expected \"Authorization: Bearer KEY\"");
  error.type = "authentication_error";
  error.code = "invalid_api_key";
  return error;
}

Caller CallerOf(const AccessRules& rules, const httplib::Request& request) {
  if (rules.api_keys.empty()) return {.owner = "", .sees_all = true};
  const ApiKey* key = KeyOf(rules, request);
  if (key == nullptr) return {.owner = std::string(kNobody)};
  const bool alone = rules.api_keys.size() == 1 || rules.share_prefixes;
  return {.owner = rules.share_prefixes ? "" : key->name,
          .sees_all = alone || (!rules.admin.empty() && key->name == rules.admin)};
}

}  // namespace duo
