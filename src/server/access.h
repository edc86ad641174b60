// Who may ask a server for something: hosts, origins, bodies, the API key.
#pragma once

#include <httplib.h>

#include <optional>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/api_keys.h"
#include "server/session_id.h"
#include "server/site_rules.h"

namespace duo {

struct AccessRules {
  SiteRules site;
  std::vector<ApiKey> api_keys;  // empty = none is asked for
  std::string admin;             // name of the key that sees what all others do; empty = none
  bool share_prefixes = false;   // all keys are one trust domain
  bool page = true;              // whether the web page may be read without the key
};

/// Checks what every request must have; an error ends it. 403 as CheckSite, 415 for a body that is packed or not JSON,
/// 401 without a key of the server's.
std::optional<ApiError> CheckAccess(const AccessRules& rules, const httplib::Request& request);

/// The sender of a request that CheckAccess let in. Only the open routes get one without a key: a caller that owns
/// nothing and sees nothing of what others own.
Caller CallerOf(const AccessRules& rules, const httplib::Request& request);

}  // namespace duo
