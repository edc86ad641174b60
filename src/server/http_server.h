// HTTP within limits: connections, sizes, times. What the library does not bound is bounded where its bytes come in.
#pragma once

#include <httplib.h>

#include <atomic>
#include <functional>
#include <string>

#include "duo/result.h"
#include "server/connection_table.h"
#include "server/http_limits.h"
#include "server/worker_threads.h"

namespace duo {

/// A server whose handlers run on one thread per connection.
class HttpServer : public httplib::Server {
 public:
  /// `threads` must outlive it. `log` gets a line for each connection that the system gives no thread for.
  HttpServer(const HttpLimits& limits, WorkerThreads* threads, std::function<void(const std::string&)> log);

  /// Binds; port 0 = any free one. Returns the port. kIo: in use, no permission, no such address.
  Result<int> Bind(const std::string& host, int port);

  /// Ends: connections that wait for their clients close, others once their answer is written. Replaces the library's
  /// stop(), which would wait for silent clients.
  void Stop();

  /// Whether the client of the request that this thread handles has gone.
  static bool ClientGone();

  /// HTTP/1.0 knows no chunks: a streamed answer to it goes out as it is and ends with the connection. For handlers,
  /// once their response is complete.
  static void FitToVersion(const httplib::Request& request, httplib::Response* response);

 private:
  bool process_and_close_socket(socket_t sock) override;

  HttpLimits limits_;
  ConnectionTable connections_;
  std::atomic<size_t> body_bytes_ = 0;  // claimed by large bodies
};

/// Host and port as a URL has them: an IPv6 address in brackets.
std::string HostAndPort(const std::string& host, int port);

}  // namespace duo
