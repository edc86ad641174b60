#include "server/site_rules.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>

#include "base/error.h"
#include "server/ascii.h"

namespace duo {
namespace {

constexpr const char* kUsualHeaders = "Authorization, Content-Type";
constexpr size_t kMaxRequestedHeaders = 2048;      // bytes
constexpr const char* kPreflightSeconds = "7200";  // for which a browser may cache an answer; none caches it for longer

/// The name in a Host header, in lower case, without its port. IPv6 addresses keep their brackets.
std::string HostOnly(const std::string& host) {
  if (!host.empty() && host[0] == '[') return LowerAscii(host.substr(0, host.find(']') + 1));
  return LowerAscii(host.substr(0, host.find(':')));
}

bool IsAddress(const std::string& host) {
  in_addr v4;
  in6_addr v6;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return true;
  return host.size() > 2 && host.front() == '[' &&
         inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6) == 1;
}

/// Accepts loopback addresses and the one name that resolvers reserve for them. Other names may point anywhere.
bool IsLoopback(const std::string& host) {
  in_addr address;
  const bool v4 = inet_pton(AF_INET, host.c_str(), &address) == 1;
  return host == "localhost" || host == "::1" || host == "[::1]" || (v4 && ntohl(address.s_addr) >> 24 == 127);
}

bool AnswersTo(const SiteRules& rules, const std::string& host) {
  const std::string own = LowerAscii(rules.host);
  const bool local = IsLoopback(own);
  if (!local && rules.allowed_hosts.empty() && rules.public_origin.empty()) return true;
  if (IsLoopback(host) || host == own || host == "[" + own + "]" || (!local && IsAddress(host))) return true;
  const size_t scheme_end = rules.public_origin.find("://");
  if (scheme_end != std::string::npos && host == HostOnly(rules.public_origin.substr(scheme_end + 3))) return true;
  return std::any_of(rules.allowed_hosts.begin(), rules.allowed_hosts.end(),
                     [&](const std::string& allowed) { return host == HostOnly(allowed); });
}

/// Whether `text` is a list of field names with commas. It holds nothing that could end a header's line.
bool IsListOfNames(const std::string& text) {
  return !text.empty() && text.size() <= kMaxRequestedHeaders && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == ',' || c == ' ';
  });
}

}  // namespace

ApiStatus CheckSite(const SiteRules& rules, const httplib::Request& request) {
  const std::string host = HostOnly(request.get_header_value("Host"));
  if (!host.empty() && !AnswersTo(rules, host)) {
    return PlainError(403, fmt::format("this server answers to names of its own machine and to those it was given, not "
                                       "to \"{}\"",
                                       host));
  }
  const std::string origin = request.get_header_value("Origin");
  if (origin.empty() || rules.cors_origin == "*" || origin == rules.cors_origin || origin == rules.public_origin ||
      origin == "http://" + request.get_header_value("Host")) {
    return ApiOk();
  }
  return PlainError(403,
                    fmt::format("pages of \"{}\" may not use this server: this is neither its own address, nor its "
                                "public URL, nor its CORS origin",
                                origin));
}

void AddCorsHeaders(const SiteRules& rules, const httplib::Request& request, httplib::Response* response) {
  if (rules.cors_origin.empty()) return;
  response->set_header("Access-Control-Allow-Origin", rules.cors_origin);
  response->set_header("Access-Control-Expose-Headers", "Retry-After");
  response->set_header("Vary", "Origin, Access-Control-Request-Headers");
  if (request.method != "OPTIONS") return;
  // Clients made for browsers send fields of their own, which have no effect here. All fields are allowed.
  const std::string wanted = request.get_header_value("Access-Control-Request-Headers");
  response->set_header("Access-Control-Allow-Headers", IsListOfNames(wanted) ? wanted : std::string(kUsualHeaders));
  response->set_header("Access-Control-Allow-Methods", "GET, POST, DELETE");
  response->set_header("Access-Control-Max-Age", kPreflightSeconds);
}

Result<std::string> OriginOfUrl(const std::string& url) {
  std::string origin = LowerAscii(url);
  const Status wrong =
      InvalidArgument("found \"{}\"; expected http:// or https://, a host, an optional port, and no path", url);
  const bool https = origin.rfind("https://", 0) == 0;
  if (!https && origin.rfind("http://", 0) != 0) return wrong;
  if (origin.back() == '/') origin.pop_back();
  const size_t begin = https ? 8 : 7;
  if (origin.size() <= begin) return wrong;
  const std::string rest = origin.substr(begin);
  const std::string host = HostOnly(rest), port = rest.substr(std::min(host.size(), rest.size()));
  const auto name = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.'; };
  if (host.empty() || (!IsAddress(host) && !std::all_of(host.begin(), host.end(), name))) return wrong;
  if (port.empty()) return origin;
  uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data() + 1, port.data() + port.size(), number);
  if (port[0] != ':' || error != std::errc() || end != port.data() + port.size() || number == 0) return wrong;
  const std::string usual = https ? ":443" : ":80";
  return port == usual ? origin.substr(0, origin.size() - port.size()) : origin;
}

}  // namespace duo
