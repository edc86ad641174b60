#include "server/access.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace duo {
namespace {

/// Owns nothing: no key and no trust domain has such a name.
constexpr std::string_view kNobody = "?";

char ToLower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

/// In time that depends on the lengths alone.
bool SameSecret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |=
        static_cast<unsigned>(static_cast<uint8_t>(a[i]) ^ static_cast<uint8_t>(b.empty() ? 0 : b[i % b.size()]));
  }
  return difference == 0;
}

/// The key that a request carries, null when it is none of the server's. Takes the same time whichever it is.
const ApiKey* KeyOf(const AccessRules& rules, const httplib::Request& request) {
  constexpr std::string_view kScheme = "bearer ";  // of any case (RFC 9110 11.1)
  std::string given = request.get_header_value("Authorization");
  for (size_t i = 0; i < std::min(given.size(), kScheme.size()); ++i) given[i] = ToLower(given[i]);
  const ApiKey* found = nullptr;
  for (const ApiKey& key : rules.api_keys) {
    if (SameSecret(std::string(kScheme) + key.key, given)) found = &key;
  }
  return found;
}

/// Health and the files of the page say nothing that is secret.
bool IsOpen(const AccessRules& rules, const httplib::Request& request) {
  if (request.path == "/health") return true;
  const bool at_the_root = request.path == "/" || request.path.find('/', 1) == std::string::npos;
  const bool reads = request.method == "GET" || request.method == "HEAD";
  return rules.page && reads && at_the_root && request.path != "/metrics";
}

}  // namespace

std::optional<ApiError> CheckAccess(const AccessRules& rules, const httplib::Request& request) {
  if (auto error = CheckSite(rules.site, request)) return error;
  const std::string encoding = request.get_header_value("Content-Encoding");
  if (!encoding.empty() && encoding != "identity") {
    return PlainError(415, "Content-Encoding: bodies are taken as they are, not packed");
  }
  const bool has_body = request.method == "POST" && request.path.find("/v1/sessions/") != 0;
  if (has_body && request.get_header_value("Content-Type").rfind("application/json", 0) != 0) {
    return PlainError(415, "Content-Type: expected application/json");
  }
  if (rules.api_keys.empty() || IsOpen(rules, request) || KeyOf(rules, request) != nullptr) return std::nullopt;
  ApiError error = PlainError(401, "a valid API key is missing: expected \"Authorization: Bearer KEY\"");
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
