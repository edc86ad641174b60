#include "server/server_plan.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/memory_info.h"

namespace duo {
namespace {

// Share of the memory that the system has available. The rest is for requests' texts, threads, and what the estimate
// misses.
constexpr double kShareOfAvailable = 0.9;
// A server must have room for at least this many tokens.
constexpr int64_t kMinTokens = 64;
// Memory mappings that the system allows a process (vm.max_map_count is 65530), less those of other parts.
constexpr int64_t kMaxMappings = 50000;
// The search for a prefix looks at every sequence.
constexpr int64_t kMaxSequences = 1024;

/// Copied weights are counted in the budget, but are no longer part of the available memory.
uint64_t Budget(const Model& model, uint64_t memory_bytes) {
  if (memory_bytes != 0) return memory_bytes;
  return model.weights_bytes() - model.mapped_bytes() +
         static_cast<uint64_t>(kShareOfAvailable * static_cast<double>(BackendAvailableBytes(*model.backend())));
}

/// A layer of a sequence has at most one buffer for K and one for V of each KV head, and one more. Each may take two
/// mappings.
size_t MaxSequences(const ModelConfig& config, int max_running) {
  const int64_t mappings = int64_t{2} * config.n_layers * (2 * config.n_kv_heads + 1);
  return static_cast<size_t>(std::clamp<int64_t>(kMaxMappings / mappings, max_running, kMaxSequences));
}

}  // namespace

Result<ServerPlan> PlanServer(const ServedModel& served, const ServerOptions& options) {
  const Model& model = *served.model;
  const ModelConfig& config = model.config();
  ServerPlan plan;
  plan.budget_bytes = Budget(model, options.memory_bytes);
  plan.cache = {.session = served.session, .pattern = served.pattern, .pattern_name = served.pattern_name};
  SessionOptions& session = plan.cache.session;
  session.memory_limit = plan.budget_bytes;
  DUO_ASSIGN_OR_RETURN(session, ResolveOptions(config, session));
  const int max_running = options.scheduler.max_running;
  if (session.chunk < max_running) {
    return InvalidArgument(
               "a chunk of {} tokens is less than the {} sequences that may run at once; use a larger chunk",
               session.chunk, max_running)
        .About("chunk");
  }
  DUO_ASSIGN_OR_RETURN(plan.memory, PlanMemory(config, model.weights_bytes(), session, *model.backend()));
  SessionOptions full = session;
  full.heads = AllRetrieval(config.n_layers, config.n_kv_heads);
  DUO_ASSIGN_OR_RETURN(plan.full_memory, PlanMemory(config, model.weights_bytes(), full, *model.backend()));

  const uint64_t for_model = plan.memory.weights_bytes + plan.memory.activation_bytes;
  plan.http = FitBodies(options.http, session.max_context, plan.budget_bytes - std::min(plan.budget_bytes, for_model));
  plan.bodies_bytes = MemoryForBodies(plan.http);
  const uint64_t least = plan.memory.TotalBytes(kMinTokens) + plan.bodies_bytes;
  if (plan.budget_bytes < least) {
    return ResourceExhausted(
               "serving this model needs {}, but only {} are given; use more memory, a smaller chunk or int8 weights",
               FormatBytes(least), FormatBytes(plan.budget_bytes))
        .About("memory_bytes");
  }
  plan.pool = {.budget_bytes = plan.budget_bytes - for_model - plan.bodies_bytes,
               .workspace_bytes = plan.memory.activation_bytes,
               .max_sequences = MaxSequences(config, max_running)};
  return plan;
}

}  // namespace duo
