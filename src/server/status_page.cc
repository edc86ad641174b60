#include "server/status_page.h"

#include <utility>

namespace duo {
namespace {

Json TextOrNull(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

Json ModelJson(const ServedFacts& facts) {
  const ModelConfig& c = *facts.config;
  const SessionOptions& session = facts.plan->cache.session;
  return {{"id", facts.model_name},
          {"n_layers", c.n_layers},
          {"n_kv_heads", c.n_kv_heads},
          {"n_heads", c.n_heads},
          {"head_dim", c.head_dim},
          {"weights", c.weights == WeightType::kNative ? DTypeName(c.weights_type) : WeightTypeName(c.weights)},
          {"kv_type", KvTypeName(session.kv_type)},
          {"compute", ComputeTypeName(session.compute)},
          {"max_context", session.max_context},
          {"chat", facts.chat ? Json(facts.chat->style_name()) : Json(nullptr)}};
}

Json PatternJson(const CacheDefaults& cache) {
  if (!cache.pattern) return nullptr;
  const HeadChoice& heads = cache.session.heads;
  Json gates = Json::array(), retrieval = Json::array();
  for (int layer = 0; layer < heads.n_layers; ++layer) {
    Json gate_row = Json::array(), retrieval_row = Json::array();
    for (int head = 0; head < heads.n_kv_heads; ++head) {
      gate_row.push_back(cache.pattern->gates[layer * heads.n_kv_heads + head]);
      retrieval_row.push_back(heads.is_retrieval(layer, head) ? 1 : 0);
    }
    gates.push_back(std::move(gate_row));
    retrieval.push_back(std::move(retrieval_row));
  }
  return {{"name", cache.pattern_name},     {"sparsity", SparsityOf(heads)}, {"sink", cache.session.sink},
          {"recent", cache.session.recent}, {"gates", std::move(gates)},     {"retrieval", std::move(retrieval)}};
}

Json MemoryJson(const ServedFacts& facts, const SchedulerStatus& status) {
  const MemoryPlan& memory = facts.plan->memory;
  const MemoryPlan& full = facts.plan->full_memory;
  return {{"budget_bytes", facts.plan->budget_bytes},
          {"weights_bytes", memory.weights_bytes},
          {"workspace_bytes", memory.activation_bytes + status.growth_bytes},
          {"requests_bytes", facts.plan->bodies_bytes},
          {"promised_bytes", status.reserved_bytes},
          {"kept_bytes", status.idle_bytes},
          {"kv_bytes_per_token", {{"duo", memory.kv_bytes_per_token}, {"full", full.kv_bytes_per_token}}},
          {"kv_fixed_bytes", {{"duo", memory.kv_fixed_bytes}, {"full", full.kv_fixed_bytes}}}};
}

const char* StateName(SequenceStatus::State state) {
  switch (state) {
    case SequenceStatus::State::kWaiting: return "waiting";
    case SequenceStatus::State::kPrefill: return "prefill";
    case SequenceStatus::State::kDecode: return "decode";
    case SequenceStatus::State::kIdle: return "kept";
  }
  return "unknown";
}

Json SequenceJson(const SequenceStatus& s) {
  return {{"id", TextOrNull(s.id)},
          {"state", StateName(s.state)},
          {"name", TextOrNull(s.session_id.name)},
          {"tokens", s.n_tokens},
          {"prompt_tokens", s.n_prompt},
          {"cached_tokens", s.n_cached},
          {"generated_tokens", s.n_generated},
          {"kv_bytes", s.kv_bytes},
          {"sparsity", s.sparsity},
          {"seconds", s.seconds},
          {"key", TextOrNull(s.session_id.owner)}};
}

}  // namespace

Json StatusJson(const ServedFacts& facts, const SchedulerStatus& status, double uptime_s) {
  Json sequences = Json::array();
  for (const SequenceStatus& s : status.sequences) sequences.push_back(SequenceJson(s));
  return {
      {"model", ModelJson(facts)},           {"pattern", PatternJson(facts.plan->cache)},
      {"memory", MemoryJson(facts, status)}, {"queue", {{"waiting", status.n_waiting}, {"limit", facts.queue_limit}}},
      {"sequences", std::move(sequences)},   {"uptime_s", uptime_s}};
}

}  // namespace duo
