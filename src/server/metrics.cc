#include "server/metrics.h"

#include <fmt/format.h>

// https://prometheus.io/docs/instrumenting/exposition_formats. The names and help texts are part of the server's
// interface (docs/http_api.md), so they keep words that the sources have replaced.

namespace duo {
namespace {

std::string Single(const char* type, const char* name, const char* help, uint64_t value) {
  return fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n{0} {3}\n", name, help, type, value);
}

std::string Counter(const char* name, const char* help, uint64_t value) { return Single("counter", name, help, value); }

std::string Gauge(const char* name, const char* help, uint64_t value) { return Single("gauge", name, help, value); }

/// Seconds.
double Bound(int bucket) { return static_cast<double>(1 << bucket) * 1e-3; }

}  // namespace

void Histogram::Add(double seconds) {
  // A bound belongs to its bucket: "le" means less or equal.
  int bucket = 0;
  while (bucket < kBuckets && seconds > Bound(bucket)) ++bucket;
  ++counts_[bucket];
  ++n_;
  sum_ += seconds;
}

std::string Histogram::Text(const std::string& name, const std::string& help) const {
  std::string text = fmt::format("# HELP {0} {1}\n# TYPE {0} histogram\n", name, help);
  uint64_t below = 0;  // the format wants cumulative counts
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    below += counts_[bucket];
    text += fmt::format("{}_bucket{{le=\"{:g}\"}} {}\n", name, Bound(bucket), below);
  }
  return text + fmt::format("{0}_bucket{{le=\"+Inf\"}} {1}\n{0}_sum {2:.6f}\n{0}_count {1}\n", name, n_, sum_);
}

// Connections' threads and the scheduler's thread count. `mutex_` guards all counts, is held for one change or one
// page, and is taken last: nothing else is locked while it is held.

void Metrics::CountResponse(const std::string& owner, const std::string& route, int status) {
  Count(owner, [&](Counts* c) { ++c->responses[{route, status}]; });
}

void Metrics::CountPrompt(const std::string& owner, int64_t n_tokens, int64_t n_cached) {
  Count(owner, [&](Counts* c) {
    c->prompt_tokens += n_tokens;
    c->cached_tokens += n_cached;
  });
}

void Metrics::CountGenerated(const std::string& owner, int64_t n_tokens) {
  Count(owner, [&](Counts* c) { c->generated_tokens += n_tokens; });
}

void Metrics::CountCancelled(const std::string& owner) {
  Count(owner, [](Counts* c) { ++c->cancelled; });
}

void Metrics::AddQueueSeconds(const std::string& owner, double seconds) {
  Count(owner, [&](Counts* c) { c->queue.Add(seconds); });
}

void Metrics::AddFirstTokenSeconds(const std::string& owner, double seconds) {
  Count(owner, [&](Counts* c) { c->first_token.Add(seconds); });
}

void Metrics::AddTokenSeconds(const std::string& owner, double seconds) {
  Count(owner, [&](Counts* c) { c->token.Add(seconds); });
}

// A step counts once in the counts of all, whatever number of owners take part in it.
void Metrics::AddBatch(const std::map<std::string, int64_t>& n_sequences) {
  MutexLock lock(&mutex_);
  ++all_.steps;
  for (const auto& [owner, n] : n_sequences) {
    all_.step_sequences += n;
    ++of_owner_[owner].steps;
    of_owner_[owner].step_sequences += n;
  }
}

std::string Metrics::Text(const Caller& caller, const Gauges& g) const {
  MutexLock lock(&mutex_);
  // The mutex is held for the whole page, so that its values belong to one moment. A caller that has asked for nothing
  // yet gets zeros.
  const auto own = of_owner_.find(caller.owner);
  const Counts none;
  const Counts& c = caller.sees_all ? all_ : own == of_owner_.end() ? none : own->second;
  std::string text = "# HELP duo_responses_total Responses by route and status.\n# TYPE duo_responses_total counter\n";
  for (const auto& [key, n] : c.responses) {
    text += fmt::format("duo_responses_total{{route=\"{}\",status=\"{}\"}} {}\n", key.first, key.second, n);
  }
  text += Counter("duo_prompt_tokens_total", "Tokens of prompts.", c.prompt_tokens);
  text += Counter("duo_cached_tokens_total", "Prompt tokens that were in memory already.", c.cached_tokens);
  text += Counter("duo_generated_tokens_total", "Tokens generated.", c.generated_tokens);
  text += Counter("duo_cancelled_requests_total", "Requests whose client left.", c.cancelled);
  text += Counter("duo_decode_steps_total", "Passes over the weights for generated tokens.", c.steps);
  text += Counter("duo_decode_step_sequences_total", "Sequences decoded in those passes.", c.step_sequences);
  text += Gauge("duo_waiting_requests", "Requests in the queue.", g.waiting);
  text += Gauge("duo_running_requests", "Requests that read their prompt or generate.", g.running);
  text += Gauge("duo_kept_sequences", "Sequences in memory without a request.", g.idle);
  text += Gauge("duo_kv_promised_bytes", "Memory reserved for running requests.", g.reserved_bytes);
  text += Gauge("duo_kv_kept_bytes", "Memory of sequences without a request.", g.idle_bytes);
  text += Gauge("duo_kv_budget_bytes", "Memory for all sequences together.", g.budget_bytes);
  // How often others' sequences are evicted, and how much memory they take, would tell about their requests.
  if (caller.sees_all) {
    text += Counter("duo_evicted_sequences_total", "Sequences that were evicted to make room.", g.evicted);
    text += Gauge("duo_resident_bytes", "Resident memory of the process.", g.resident_bytes);
  }
  text += c.queue.Text("duo_queue_seconds", "Seconds from a request's arrival to its first step.");
  text += c.first_token.Text("duo_first_token_seconds", "Seconds from a request's arrival to its first token.");
  return text + c.token.Text("duo_token_seconds", "Seconds between two tokens of one sequence.");
}

}  // namespace duo
