// The web page of a server.
#pragma once

#include "server/http_server.h"

namespace duo {

/// Adds a route for each file of the page (web_files.h), and one for "/". A browser that follows their headers runs no
/// code and asks for no data from elsewhere.
void AddWebPage(HttpServer* http);

}  // namespace duo
