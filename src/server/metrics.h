// What a server counts, and Prometheus' text of it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace duo {

/// Seconds in buckets that double from 1 ms to 2^17 ms. Not thread safe.
class Histogram {
 public:
  void Add(double seconds);
  /// Lines of one histogram named `name`.
  std::string Text(const std::string& name, const std::string& help) const;

 private:
  static constexpr int kBuckets = 18;
  std::array<uint64_t, kBuckets + 1> counts_ = {};  // the last: beyond all bounds
  uint64_t n_ = 0;
  double sum_ = 0;
};

/// Values of the moment, for one page of metrics.
struct Gauges {
  int64_t waiting = 0, running = 0, kept = 0;
  uint64_t promised_bytes = 0, kept_bytes = 0, budget_bytes = 0, resident_bytes = 0;
  uint64_t evicted = 0;
};

/// Thread safe.
class Metrics {
 public:
  void CountResponse(const std::string& route, int status);
  void CountPrompt(int64_t n_tokens, int64_t n_cached);
  void CountGenerated(int64_t n_tokens);
  void CountCancelled();
  void AddQueueSeconds(double seconds);
  void AddFirstTokenSeconds(double seconds);
  void AddTokenSeconds(double seconds);  // between a sequence's tokens
  void AddBatch(int64_t n_sequences);    // decoded in one step

  std::string Text(const Gauges& gauges) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, uint64_t> responses_;
  uint64_t prompt_tokens_ = 0, cached_tokens_ = 0, generated_tokens_ = 0, cancelled_ = 0;
  uint64_t steps_ = 0, step_sequences_ = 0;
  Histogram queue_, first_token_, token_;
};

}  // namespace duo
