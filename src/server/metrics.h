// What a server counts, and Prometheus' text of it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "server/session_id.h"

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

/// Counts events for each owner (SessionId::owner) and for all together. Thread safe.
class Metrics {
 public:
  void CountResponse(const std::string& owner, const std::string& route, int status);
  void CountPrompt(const std::string& owner, int64_t n_tokens, int64_t n_cached);
  void CountGenerated(const std::string& owner, int64_t n_tokens);
  void CountCancelled(const std::string& owner);
  void AddQueueSeconds(const std::string& owner, double seconds);
  void AddFirstTokenSeconds(const std::string& owner, double seconds);
  void AddTokenSeconds(const std::string& owner, double seconds);  // between a sequence's tokens
  /// One step: how many sequences of each owner were decoded in it.
  void AddBatch(const std::map<std::string, int64_t>& n_sequences);

  /// The metrics that the caller may see. The process's memory and the sequences given up tell of others, so only a
  /// caller who sees all gets them.
  std::string Text(const Caller& caller, const Gauges& gauges) const;

 private:
  struct Counts {
    std::map<std::pair<std::string, int>, uint64_t> responses;
    uint64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0, cancelled = 0;
    uint64_t steps = 0, step_sequences = 0;
    Histogram queue, first_token, token;
  };
  /// Changes the counts of all and of the owner in the same way.
  template <typename Change>
  void Count(const std::string& owner, const Change& change) {
    const std::lock_guard lock(mutex_);
    change(&all_);
    change(&of_owner_[owner]);
  }

  mutable std::mutex mutex_;
  Counts all_;
  std::map<std::string, Counts> of_owner_;
};

}  // namespace duo
