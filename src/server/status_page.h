// The status that a server reports: GET /v1/status.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "duo/model.h"
#include "duo/tokenizer.h"
#include "server/scheduler.h"
#include "server/server_plan.h"

namespace duo {

/// The part of the status that does not change while the server runs. Must outlive the calls that use it.
struct ServedFacts {
  std::string model_name;
  const ModelConfig* config = nullptr;
  std::optional<ChatTemplate> chat;
  const ServerPlan* plan = nullptr;
  int64_t queue_limit = 0;
};

/// Fields: docs/http_api.md.
Json StatusJson(const ServedFacts& facts, const SchedulerStatus& status, double uptime_s);

}  // namespace duo
