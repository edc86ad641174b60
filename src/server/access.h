// Who may ask a server for something: hosts, origins, bodies, the API key.
#pragma once

#include <httplib.h>

#include <optional>
#include <string>

#include "server/api_error.h"
#include "server/site_rules.h"

namespace duo {

struct AccessRules {
  SiteRules site;
  std::string api_key;  // empty = none is asked for
  bool page = true;     // whether the web page may be read without the key
};

/// What every request must have; an error ends it. 403 as CheckSite, 415 for a body that is
/// packed or no JSON, 401 without the key.
std::optional<ApiError> CheckAccess(const AccessRules& rules, const httplib::Request& request);

}  // namespace duo
