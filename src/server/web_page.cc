#include "server/web_page.h"

#include <string>
#include <string_view>

#include "server/web_files.h"

namespace duo {
namespace {

constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const char* ContentType(std::string_view name) {
  return name.ends_with(".html")  ? "text/html; charset=utf-8"
         : name.ends_with(".css") ? "text/css; charset=utf-8"
         : name.ends_with(".js")  ? "text/javascript; charset=utf-8"
         : name.ends_with(".svg") ? "image/svg+xml"
                                  : "application/octet-stream";
}

}  // namespace

void AddWebPage(HttpServer* http) {
  for (const WebFile& file : WebFiles()) {
    const auto serve = [file](const httplib::Request&, httplib::Response& response) {
      response.set_header("Content-Security-Policy", kPolicy);
      response.set_header("X-Content-Type-Options", "nosniff");
      response.set_header("Referrer-Policy", "no-referrer");
      response.set_header("Cache-Control", "no-cache");
      response.set_content(file.bytes.data(), file.bytes.size(), ContentType(file.name));
    };
    std::string pattern = "/";
    for (const char c : file.name) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
    http->Get(pattern, serve);
    if (file.name == "index.html") http->Get("/", serve);
  }
}

}  // namespace duo
