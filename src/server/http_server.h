// HTTP within limits: connections, sizes, times. What the library does not bound is bounded where its bytes come in.
#pragma once

#include <httplib.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "duo/result.h"
#include "server/http_limits.h"

namespace duo {

/// A server whose handlers run on one thread per connection.
class HttpServer : public httplib::Server {
 public:
  explicit HttpServer(const HttpLimits& limits);

  /// Binds; port 0 = any free one. Returns the port. kIo: in use, no permission, no such address.
  Result<int> Bind(const std::string& host, int port);

  /// Whether the client of the request that this thread handles has gone.
  static bool ClientGone();

  int n_connections() const { return n_connections_; }

 private:
  bool process_and_close_socket(socket_t sock) override;

  HttpLimits limits_;
  std::atomic<int> n_connections_ = 0;
  std::atomic<size_t> body_bytes_ = 0;  // claimed by large bodies
};

}  // namespace duo
