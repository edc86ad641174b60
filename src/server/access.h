// Checks who may use the server: host names, origins, types of bodies, API keys.
#pragma once

#include <httplib.h>

#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/api_keys.h"
#include "server/session_id.h"
#include "server/site_rules.h"

namespace duo {

struct AccessRules {
  SiteRules site;
  std::vector<ApiKey> api_keys;  // empty = no key is required
  std::string admin;             // name of the key whose status and metrics cover all keys; empty = none
  bool share_prefixes = false;   // all keys form one trust domain
  bool page = true;              // the web page may be read without a key
};

/// Checks the rules that apply to every request. An error ends the request: 403 as in CheckSite, 415 for a body that is
/// compressed or not JSON, 401 without one of the server's keys.
ApiStatus CheckAccess(const AccessRules& rules, const httplib::Request& request);

/// The sender of a request that CheckAccess accepted. On open routes the sender may have no key: such a caller owns
/// nothing and sees nothing that others own.
Caller CallerOf(const AccessRules& rules, const httplib::Request& request);

}  // namespace duo
