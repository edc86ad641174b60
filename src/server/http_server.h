// An HTTP server with limits on connections, sizes and times. HttpConnection enforces those that the library lacks.
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
  /// `threads` must outlive it. `log` gets a line for each connection for which the system has no thread.
  HttpServer(const HttpLimits& limits, WorkerThreads* threads, std::function<void(const std::string&)> log);

  /// Binds the address and returns the port; 0 = any free port. Fails with kIo when the port is in use, permission is
  /// missing or the address does not exist.
  Result<int> Bind(const std::string& host, int port);

  /// Ends the server. Connections that wait for their clients close at once, others after their answer is written.
  /// Replaces the library's stop(), which would wait for silent clients.
  void Stop();

  /// Whether the client of the request that this thread handles has gone.
  static bool ClientGone();

  /// HTTP/1.0 has no chunks: a streamed answer is sent without framing and ends with the connection. Handlers call this
  /// after their response is complete.
  static void FitToVersion(const httplib::Request& request, httplib::Response* response);

 private:
  bool process_and_close_socket(socket_t sock) override;

  HttpLimits limits_;
  ConnectionTable connections_;
  std::atomic<size_t> body_bytes_ = 0;  // bytes that the connections have claimed for large bodies
};

/// Host and port as in a URL: an IPv6 address gets brackets.
std::string HostAndPort(const std::string& host, int port);

}  // namespace duo
