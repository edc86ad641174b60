// What a client may take of the server before its request is even understood.
#pragma once

#include <algorithm>
#include <cstddef>

namespace duo {

struct HttpLimits {
  int most_connections = 64;            // further ones are answered 503
  size_t most_header_bytes = 64 << 10;  // of one request
  size_t most_body_bytes = size_t{64} << 20;
  // Bodies of all requests that are being read or answered: a parsed one takes several times its size. Large ones
  // beyond that are answered 503.
  size_t most_body_bytes_together() const { return std::max(2 * most_body_bytes, size_t{16} << 20); }
  int idle_timeout_s = 60;      // between requests of a connection, and between bytes of one
  int request_timeout_s = 600;  // for a whole request to arrive
};

}  // namespace duo
