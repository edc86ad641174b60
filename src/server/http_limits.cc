#include "server/http_limits.h"

#include <algorithm>

#include "server/request_json.h"

namespace duo {
namespace {

constexpr uint64_t kShareForBodies = 16;  // bodies get one part in 16 of the memory
constexpr size_t kTogetherBytes = size_t{16} << 20;

}  // namespace

HttpLimits FitBodies(HttpLimits limits, int64_t max_context, uint64_t memory_bytes) {
  const auto share = static_cast<size_t>(memory_bytes / kShareForBodies / kMemoryPerBodyByte);
  if (limits.max_body_bytes == 0) {
    // An id with its comma and blank takes at most eight bytes in a vocabulary of under a million tokens.
    const size_t least = (64 << 10) + 8 * static_cast<size_t>(max_context);
    limits.max_body_bytes = std::min(DefaultBodyBytes(max_context), std::max(share, least));
  }
  const size_t together = std::max(2 * limits.max_body_bytes, kTogetherBytes);
  limits.max_body_bytes_together = std::clamp(share, limits.max_body_bytes, together);
  return limits;
}

uint64_t MemoryForBodies(const HttpLimits& limits) {
  return uint64_t{kMemoryPerBodyByte} * limits.max_body_bytes_together;
}

}  // namespace duo
