// One request on its way through the scheduler: what it asks, and what has become of it so far.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "duo/generate.h"
#include "engine/log_probs.h"
#include "server/cache_spec.h"
#include "server/session_id.h"

namespace duo {

/// What a client asks for, checked against the model.
struct JobRequest {
  std::string id;               // for people: "cmpl-12"
  std::vector<int32_t> prompt;  // at least one token
  GenerateOptions generate;     // max_tokens may be 0: the prompt is read only
  CacheSpec spec;
  SessionOptions session;         // of the spec, resolved
  SessionId session_id;           // its owner, and the session that it belongs to
  int n_log_probs = -1;           // most likely tokens to report for every token; -1 = no log probabilities
  bool prompt_log_probs = false;  // for the prompt's tokens too
  bool reuse = true;              // whether tokens of the prompt may be found in memory instead of read
};

struct JobToken {
  int32_t id = -1;
  std::string piece;                  // text that became certain with it
  std::optional<LogProbs> log_probs;  // where asked for
};

/// Where the time of a request went, and what it cost.
struct JobStats {
  int64_t n_prompt = 0;
  int64_t n_cached = 0;  // tokens of the prompt that were not read again
  int64_t n_generated = 0;
  double queue_s = 0;
  double prefill_s = 0;
  double first_token_s = 0;  // from submission
  double decode_s = 0;
  int64_t n_chunks_waited = 0;  // of other prompts, between its admission and the end of its prompt
  uint64_t kv_bytes = 0;
  FinishReason finish = FinishReason::kMaxTokens;
};

/// Held by the client's thread and by the scheduler's: either may be the last to let go of it, since a client leaves
/// whenever it likes; hence the shared pointers to it. Thread safe.
class Job {
 public:
  explicit Job(JobRequest asked) : request(std::move(asked)), submitted(Clock::now()) {}

  const JobRequest request;
  const Clock::time_point submitted;

  // ---- the client's side
  /// What happened since the last call.
  struct News {
    int64_t prompt_done = 0;                                // tokens of the prompt that are read (the cached ones too)
    std::vector<std::optional<LogProbs>> prompt_log_probs;  // of further prompt tokens, in order; the first has none
    std::vector<JobToken> tokens;
    std::string rest;  // text held back until the end; once finished
    bool finished = false;
    Status status;  // once finished
    JobStats stats;
  };
  /// Waits until there is something new, at most `seconds`.
  News Take(double seconds);
  /// The client wants no more: the scheduler lets go of the request before its next step.
  void Cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

  // ---- the scheduler's side
  void ReportPrompt(int64_t n_done, std::vector<std::optional<LogProbs>> log_probs);
  void ReportToken(JobToken token);
  void Finish(const Status& status, const JobStats& stats, std::string rest);

 private:
  std::atomic<bool> cancelled_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool has_news_ = false;
  News news_;
};

}  // namespace duo
