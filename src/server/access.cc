#include "server/access.h"

#include <cstdint>

namespace duo {
namespace {

/// In time that depends on the lengths alone.
bool SameSecret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |=
        static_cast<unsigned>(static_cast<uint8_t>(a[i]) ^ static_cast<uint8_t>(b.empty() ? 0 : b[i % b.size()]));
  }
  return difference == 0;
}

/// Health and the files of the page say nothing that is secret.
bool IsOpen(const AccessRules& rules, const httplib::Request& request) {
  if (request.path == "/health") return true;
  const bool at_the_root = request.path == "/" || request.path.find('/', 1) == std::string::npos;
  return rules.page && request.method == "GET" && at_the_root && request.path != "/metrics";
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
  if (rules.api_key.empty() || IsOpen(rules, request)) return std::nullopt;
  if (SameSecret("Bearer " + rules.api_key, request.get_header_value("Authorization"))) return std::nullopt;
  ApiError error = PlainError(401, "a valid API key is missing: expected \"Authorization: Bearer KEY\"");
  error.type = "authentication_error";
  error.code = "invalid_api_key";
  return error;
}

}  // namespace duo
