// Counts what happens in a server, and writes the counts in Prometheus' text format.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "base/mutex.h"
#include "server/session_id.h"

namespace duo {

/// Durations in buckets whose bounds double from 1 ms to 2^17 ms. Not thread safe.
class Histogram {
 public:
  void Add(double seconds);
  /// The lines of this histogram under the name `name`.
  std::string Text(const std::string& name, const std::string& help) const;

 private:
  static constexpr int kBuckets = 18;
  std::array<uint64_t, kBuckets + 1> counts_ = {};  // the last one counts durations beyond all bounds
  uint64_t n_ = 0;
  double sum_ = 0;
};

/// The current values for one page of metrics.
struct Gauges {
  int64_t waiting = 0, running = 0, idle = 0;
  uint64_t reserved_bytes = 0, idle_bytes = 0, budget_bytes = 0, resident_bytes = 0;
  uint64_t evicted = 0;
};

/// Counts events for each owner (SessionId::owner) and for all owners together. Thread safe.
class Metrics {
 public:
  void CountResponse(const std::string& owner, const std::string& route, int status);
  void CountPrompt(const std::string& owner, int64_t n_tokens, int64_t n_cached);
  void CountGenerated(const std::string& owner, int64_t n_tokens);
  void CountCancelled(const std::string& owner);
  void AddQueueSeconds(const std::string& owner, double seconds);
  void AddFirstTokenSeconds(const std::string& owner, double seconds);
  void AddTokenSeconds(const std::string& owner, double seconds);  // between two tokens of a sequence
  /// Counts one decode step with this many sequences of each owner.
  void AddBatch(const std::map<std::string, int64_t>& n_sequences);

  /// The metrics that the caller may see. Resident memory and evictions tell about other owners, so only a caller that
  /// sees all gets them.
  std::string Text(const Caller& caller, const Gauges& gauges) const;

 private:
  struct Counts {
    std::map<std::pair<std::string, int>, uint64_t> responses;
    uint64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0, cancelled = 0;
    uint64_t steps = 0, step_sequences = 0;
    Histogram queue, first_token, token;
  };
  /// Applies `change` to the counts of all and to those of the owner.
  template <typename Change>
  void Count(const std::string& owner, const Change& change) {
    MutexLock lock(&mutex_);
    change(&all_);
    change(&of_owner_[owner]);
  }

  mutable Mutex mutex_;
  Counts all_ DUO_GUARDED_BY(mutex_);
  std::map<std::string, Counts> of_owner_ DUO_GUARDED_BY(mutex_);
};

}  // namespace duo
