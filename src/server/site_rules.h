// The host names that a server answers to, and the pages that may use it from a browser.
#pragma once

#include <httplib.h>

#include <string>
#include <vector>

#include "duo/result.h"
#include "server/api_error.h"

namespace duo {

struct SiteRules {
  std::string host;                        // the address that the server is bound to
  std::vector<std::string> allowed_hosts;  // other names that it answers to
  std::string public_origin;               // of a proxy in front of it, as OriginOfUrl returns it; empty = none
  std::string cors_origin;                 // of pages that may call it from a browser; empty = none, "*" = all
};

/// Keeps pages of other sites from reaching the server through the user's browser.
///
/// Returns 403 for a Host that is not one of the server's names. Every name is accepted when the server is not bound to
/// loopback and was given no names. Loopback names are always accepted. A server that is not bound to loopback accepts
/// plain IP addresses too, because only names can be made to point elsewhere.
///
/// Returns 403 for an Origin that is neither the server's own address nor one that may call it.
ApiStatus CheckSite(const SiteRules& rules, const httplib::Request& request);

/// Adds the headers that a browser needs before it lets a page of `cors_origin` call the server and read an answer.
/// Adds none when there is no such origin.
void AddCorsHeaders(const SiteRules& rules, const httplib::Request& request, httplib::Response* response);

/// The origin of a URL as browsers write it: "https://llm.example.com" for "https://LLM.example.com:443/". Fails with
/// kInvalidArgument unless the URL is http or https with a host, an optional port, and no path.
Result<std::string> OriginOfUrl(const std::string& url);

}  // namespace duo
