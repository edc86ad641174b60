// One request on its way through the scheduler: what it asks for, and its progress so far.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "duo/generate.h"
#include "engine/serving.h"
#include "server/cache_spec.h"
#include "server/session_id.h"

namespace duo {

/// A client's request, checked against the model.
struct JobRequest {
  std::string id;               // for people: "cmpl-12"
  std::vector<int32_t> prompt;  // at least one token
  GenerateOptions generate;     // max_tokens may be 0: then the prompt is only read
  CacheSpec spec;
  SessionOptions session;         // resolved options of `spec`
  SessionId session_id;           // its owner, and the name of its session
  int n_log_probs = -1;           // most likely tokens to report for every token; -1 = no log probabilities
  bool prompt_log_probs = false;  // report them for the prompt's tokens too
  bool reuse = true;              // prompt tokens may come from sequences in memory instead of being read
};

struct JobToken {
  int32_t id = -1;
  std::string piece;                  // text that became certain with this token
  std::optional<LogProbs> log_probs;  // when requested
};

/// The times and the costs of a request.
struct JobStats {
  int64_t n_prompt = 0;
  int64_t n_cached = 0;  // prompt tokens that were in memory and not read again
  int64_t n_generated = 0;
  double queue_s = 0;
  double prefill_s = 0;
  double first_token_s = 0;  // since the request was submitted
  double decode_s = 0;
  int64_t n_chunks_waited = 0;  // chunks of other prompts, from its admission to the end of its prompt
  uint64_t kv_bytes = 0;
  FinishReason finish = FinishReason::kMaxTokens;
};

/// Shared by the client's thread and the scheduler's. Either may release it last, since a client may leave at any time;
/// hence the shared pointers to it. Thread safe.
class Job {
 public:
  explicit Job(JobRequest asked) : request(std::move(asked)), submitted(Clock::now()) {}

  const JobRequest request;
  const Clock::time_point submitted;

  // ---- the client's side
  /// Everything that happened since the last call.
  struct News {
    int64_t prompt_done = 0;                                // prompt tokens read so far, with the cached ones
    std::vector<std::optional<LogProbs>> prompt_log_probs;  // of the next prompt tokens; a prompt's first has none
    std::vector<JobToken> tokens;
    std::string rest;  // text held back until the end; valid once finished
    bool finished = false;
    Status status;  // valid once finished
    JobStats stats;
  };
  /// Waits for news, for at most `seconds`.
  News Take(double seconds);
  /// Tells the scheduler that the client has left. The scheduler ends the request in its next step.
  void Cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

  // ---- the scheduler's side
  void ReportPrompt(int64_t n_done, std::vector<std::optional<LogProbs>> log_probs);
  void ReportToken(JobToken token);
  void Finish(const Status& status, const JobStats& stats, std::string rest);

 private:
  std::atomic<bool> cancelled_ = false;
  Mutex mutex_;
  std::condition_variable changed_;
  bool has_news_ DUO_GUARDED_BY(mutex_) = false;
  News news_ DUO_GUARDED_BY(mutex_);
};

}  // namespace duo
