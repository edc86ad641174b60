// The status that a server reports: GET /v1/status.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "duo/model.h"
#include "duo/session.h"
#include "duo/tokenizer.h"
#include "server/cache_spec.h"
#include "server/scheduler.h"

namespace duo {

/// The part of the status that does not change while the server runs. Must outlive the calls that use it.
struct ServedFacts {
  std::string model_name;
  const ModelConfig* config = nullptr;
  const CacheDefaults* cache = nullptr;
  std::optional<ChatTemplate> chat;
  MemoryPlan plan, full_plan;  // with the default options of requests, and with full attention
  uint64_t budget_bytes = 0;
  uint64_t requests_bytes = 0;  // bytes of budget_bytes reserved for request bodies
  int64_t queue_limit = 0;
};

/// Fields: docs/http_api.md.
Json StatusJson(const ServedFacts& facts, const SchedulerStatus& status, double uptime_s);

}  // namespace duo
