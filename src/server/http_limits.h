// What a client may take of the server before its request is even understood.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duo {

struct HttpLimits {
  int max_connections = 256;           // when there are more, silent ones give way; then further ones are answered 503
  size_t max_header_bytes = 64 << 10;  // of one request
  size_t max_body_bytes = 0;           // of one request; 0 = what the context can use: see FitBodies
  // Bodies of all requests that are being read or answered, except the first kUncountedBodyBytes of each. Beyond that,
  // requests are answered 503.
  size_t max_body_bytes_together = size_t{16} << 20;
  int idle_timeout_s = 60;    // between requests of a connection, between bytes of a body, and for a client to read
  int header_timeout_s = 10;  // from the first byte of a request to the end of its header
  // A body may take this long, and the time that what has come of it takes at this rate.
  int body_grace_s = 20;
  size_t min_body_bytes_per_s = 4096;
};

/// Small requests may take this much without being counted.
constexpr size_t kUncountedBodyBytes = 16 << 10;

/// The largest body for a context of so many tokens when nobody says: several times what its text or its ids take, even
/// with each character as an escape of six bytes, and room for batches of shorter prompts.
constexpr size_t DefaultBodyBytes(int64_t max_context) {
  return (size_t{1} << 20) + 32 * static_cast<size_t>(max_context);
}

/// The same limits with those of bodies set: a body's default, and as many bodies at once as a sixteenth of
/// `memory_bytes` holds, but one of the largest size always, and 16 MiB or two of the largest at most. With so little
/// memory that a body of the default size does not fit that share, the default is less, and enough for one prompt of
/// ids.
HttpLimits FitBodies(HttpLimits limits, int64_t max_context, uint64_t memory_bytes);

/// Memory that all bodies together may take while they are parsed and answered.
uint64_t MemoryForBodies(const HttpLimits& limits);

}  // namespace duo
