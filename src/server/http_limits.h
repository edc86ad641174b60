// Limits on what a client may use before the server has understood its request.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duo {

struct HttpLimits {
  int max_connections = 256;           // beyond these, silent ones are closed; then new ones are answered with 503
  size_t max_header_bytes = 64 << 10;  // of one request
  size_t max_body_bytes = 0;           // of one request; 0 = what the context can use, see FitBodies
  // For the bodies of all requests that are being read or answered, without the first kUncountedBodyBytes of each.
  // Beyond that, requests are answered with 503.
  size_t max_body_bytes_together = size_t{16} << 20;
  int idle_timeout_s = 60;    // between requests of a connection, between bytes of a body, and until a client reads
  int header_timeout_s = 10;  // from the first byte of a request to the end of its header
  // A body may take body_grace_s, plus the time that its bytes so far take at min_body_bytes_per_s.
  int body_grace_s = 20;
  size_t min_body_bytes_per_s = 4096;
};

/// The first bytes of every body, which are not counted.
constexpr size_t kUncountedBodyBytes = 16 << 10;

/// The default for max_body_bytes at a context of this many tokens. It holds several times the text or the ids of the
/// context, even if every character is an escape of six bytes. So batches of shorter prompts fit too.
constexpr size_t DefaultBodyBytes(int64_t max_context) {
  return (size_t{1} << 20) + 32 * static_cast<size_t>(max_context);
}

/// The same limits with those of bodies filled in. All bodies together may take a sixteenth of `memory_bytes`. That is
/// at least one body of the largest size, and at most 16 MiB or two of the largest, whichever is more. A max_body_bytes
/// of 0 becomes the default. If the default does not fit that share, it is lowered, but stays enough for one prompt of
/// ids.
HttpLimits FitBodies(HttpLimits limits, int64_t max_context, uint64_t memory_bytes);

/// Max memory of all bodies together while they are parsed and answered.
uint64_t MemoryForBodies(const HttpLimits& limits);

}  // namespace duo
