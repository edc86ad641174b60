#include "server/access.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace duo {
namespace {

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

/// What a Host header names, without its port.
std::string HostOnly(std::string host) {
  std::transform(host.begin(), host.end(), host.begin(), ToLower);
  if (!host.empty() && host[0] == '[') return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.find(':'));
}

/// Numbers and the one name that resolvers keep for this: others may be made to point anywhere.
bool IsLoopback(const std::string& host) {
  in_addr address;
  const bool v4 = inet_pton(AF_INET, host.c_str(), &address) == 1;
  return host == "localhost" || host == "::1" || host == "[::1]" || (v4 && ntohl(address.s_addr) >> 24 == 127);
}

/// Health and the files of the page say nothing that is secret.
bool IsOpen(const AccessRules& rules, const httplib::Request& request) {
  if (request.path == "/health") return true;
  const bool at_the_root = request.path == "/" || request.path.find('/', 1) == std::string::npos;
  const bool reads = request.method == "GET" || request.method == "HEAD";
  return rules.page && reads && at_the_root && request.path != "/metrics";
}

}  // namespace

// A page of another site must not reach a server on this machine through the user's browser: its requests would carry
// that site's name as host, or be of a kind that needs no permission, which JSON bodies are not.
std::optional<ApiError> CheckAccess(const AccessRules& rules, const httplib::Request& request) {
  const std::string host = HostOnly(request.get_header_value("Host"));
  if (IsLoopback(rules.host) && !host.empty() && !IsLoopback(host) && host != rules.host) {
    return PlainError(403, "this server answers to names of its own machine only, not to \"" + host + "\"");
  }
  const std::string origin = request.get_header_value("Origin");
  const bool own = origin == "http://" + request.get_header_value("Host") || origin == rules.cors_origin;
  if (!origin.empty() && !own && rules.cors_origin != "*") {
    return PlainError(403,
                      "pages of \"" + origin + "\" may not use this server: it was started without leave for them");
  }
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
  if (key == nullptr) return {};
  const bool alone = rules.api_keys.size() == 1 || rules.share_prefixes;
  return {.owner = rules.share_prefixes ? "" : key->name,
          .sees_all = alone || (!rules.admin.empty() && key->name == rules.admin)};
}

}  // namespace duo
