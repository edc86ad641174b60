// The names that a server answers to, and the pages that may use it from a browser.
#pragma once

#include <httplib.h>

#include <optional>
#include <string>
#include <vector>

#include "duo/result.h"
#include "server/api_error.h"

namespace duo {

struct SiteRules {
  std::string host;                        // the server's own, as it was bound
  std::vector<std::string> allowed_hosts;  // other names that it answers to
  std::string public_origin;               // of a proxy before it, as OriginOfUrl gives it; empty = none
  std::string cors_origin;                 // allowed to call from a browser; empty = none, "*" = all
};

/// A page of another site must not reach the server through the user's browser. 403 for a Host that is not one of the
/// server's names, when it has names: it is bound to loopback, or some were given (then loopback and, on other
/// addresses, plain IP addresses count too; only names can be made to point elsewhere). 403 for an Origin that is
/// neither the server's own address nor one that may call it.
std::optional<ApiError> CheckSite(const SiteRules& rules, const httplib::Request& request);

/// Adds the headers without which a browser does not let a page of `cors_origin` call or read an answer. Adds none
/// without such an origin.
void AddCorsHeaders(const SiteRules& rules, const httplib::Request& request, httplib::Response* response);

/// "https://llm.example.com" of "https://LLM.example.com:443/": as browsers write an origin. kInvalidArgument unless
/// the URL is http or https with a host, perhaps a port, and no path.
Result<std::string> OriginOfUrl(const std::string& url);

}  // namespace duo
