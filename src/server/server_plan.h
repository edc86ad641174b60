// Plans a server's memory before it starts: what the model and the bodies of requests take, and what is left for
// sequences.
#pragma once

#include <cstdint>

#include "duo/session.h"
#include "server/cache_spec.h"
#include "server/http_limits.h"
#include "server/sequence_pool.h"
#include "server/server.h"

namespace duo {

struct ServerPlan {
  CacheDefaults cache;             // its session options are resolved
  MemoryPlan memory, full_memory;  // with the default options of requests, and with full attention
  HttpLimits http;                 // with the limits on bodies filled in
  uint64_t budget_bytes = 0;       // for weights, workspace, bodies and sequences together
  uint64_t bodies_bytes = 0;       // the part of it that is reserved for the bodies of requests
  PoolLimits pool;                 // the rest, for sequences
};

/// Fails with kResourceExhausted, and numbers, when not even one short sequence would fit. Fails with kInvalidArgument
/// for options that contradict each other or the model.
Result<ServerPlan> PlanServer(const ServedModel& served, const ServerOptions& options);

}  // namespace duo
