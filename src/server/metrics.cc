#include "server/metrics.h"

#include <fmt/format.h>

namespace duo {
namespace {

std::string Single(const char* type, const char* name, const char* help, const std::string& value) {
  return fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n{0} {3}\n", name, help, type, value);
}

std::string Counter(const char* name, const char* help, uint64_t value) {
  return Single("counter", name, help, std::to_string(value));
}

std::string Gauge(const char* name, const char* help, uint64_t value) {
  return Single("gauge", name, help, std::to_string(value));
}

double Bound(int bucket) { return static_cast<double>(1 << bucket) * 1e-3; }

}  // namespace

void Histogram::Add(double seconds) {
  int bucket = 0;
  while (bucket < kBuckets && seconds > Bound(bucket)) ++bucket;
  ++counts_[static_cast<size_t>(bucket)];
  ++n_;
  sum_ += seconds;
}

std::string Histogram::Text(const std::string& name, const std::string& help) const {
  std::string text = fmt::format("# HELP {0} {1}\n# TYPE {0} histogram\n", name, help);
  uint64_t below = 0;
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    below += counts_[static_cast<size_t>(bucket)];
    text += fmt::format("{}_bucket{{le=\"{:g}\"}} {}\n", name, Bound(bucket), below);
  }
  return text + fmt::format("{0}_bucket{{le=\"+Inf\"}} {1}\n{0}_sum {2:.6f}\n{0}_count {1}\n", name, n_, sum_);
}

void Metrics::CountResponse(const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  ++responses_[{route, status}];
}

void Metrics::CountPrompt(int64_t n_tokens, int64_t n_cached) {
  const std::lock_guard lock(mutex_);
  prompt_tokens_ += static_cast<uint64_t>(n_tokens);
  cached_tokens_ += static_cast<uint64_t>(n_cached);
}

void Metrics::CountGenerated(int64_t n_tokens) {
  const std::lock_guard lock(mutex_);
  generated_tokens_ += static_cast<uint64_t>(n_tokens);
}

void Metrics::CountCancelled() {
  const std::lock_guard lock(mutex_);
  ++cancelled_;
}

void Metrics::AddQueueSeconds(double seconds) {
  const std::lock_guard lock(mutex_);
  queue_.Add(seconds);
}

void Metrics::AddFirstTokenSeconds(double seconds) {
  const std::lock_guard lock(mutex_);
  first_token_.Add(seconds);
}

void Metrics::AddTokenSeconds(double seconds) {
  const std::lock_guard lock(mutex_);
  token_.Add(seconds);
}

void Metrics::AddBatch(int64_t n_sequences) {
  const std::lock_guard lock(mutex_);
  ++steps_;
  step_sequences_ += static_cast<uint64_t>(n_sequences);
}

std::string Metrics::Text(const Gauges& g) const {
  const std::lock_guard lock(mutex_);
  std::string text = "# HELP duo_responses_total Responses by route and status.\n# TYPE duo_responses_total counter\n";
  for (const auto& [key, n] : responses_) {
    text += fmt::format("duo_responses_total{{route=\"{}\",status=\"{}\"}} {}\n", key.first, key.second, n);
  }
  text += Counter("duo_prompt_tokens_total", "Tokens of prompts.", prompt_tokens_);
  text += Counter("duo_cached_tokens_total", "Tokens of prompts that kept sequences had already.", cached_tokens_);
  text += Counter("duo_generated_tokens_total", "Tokens generated.", generated_tokens_);
  text += Counter("duo_cancelled_requests_total", "Requests whose client went away.", cancelled_);
  text += Counter("duo_evicted_sequences_total", "Kept sequences that were given up for room.", g.evicted);
  text += Counter("duo_decode_steps_total", "Passes over the weights for generated tokens.", steps_);
  text += Counter("duo_decode_step_sequences_total", "Sequences in those passes.", step_sequences_);
  const auto count = [](int64_t n) { return static_cast<uint64_t>(n); };
  text += Gauge("duo_waiting_requests", "Requests in the queue.", count(g.waiting));
  text += Gauge("duo_running_requests", "Requests that are being worked on.", count(g.running));
  text += Gauge("duo_kept_sequences", "Finished sequences in memory.", count(g.kept));
  text += Gauge("duo_kv_promised_bytes", "Memory promised to running requests.", g.promised_bytes);
  text += Gauge("duo_kv_kept_bytes", "Memory of finished sequences.", g.kept_bytes);
  text += Gauge("duo_kv_budget_bytes", "Memory for sequences in all.", g.budget_bytes);
  text += Gauge("duo_resident_bytes", "Resident memory of the process.", g.resident_bytes);
  text += queue_.Text("duo_queue_seconds", "From a request's arrival to its first step.");
  text += first_token_.Text("duo_first_token_seconds", "From a request's arrival to its first token.");
  return text + token_.Text("duo_token_seconds", "Between two tokens of one sequence.");
}

}  // namespace duo
