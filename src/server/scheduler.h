// Many requests, one model: prompts in chunks, and between them one token of every text that is being generated, in one
// pass over the weights.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "duo/model.h"
#include "duo/session.h"
#include "duo/tokenizer.h"
#include "engine/token_loop.h"
#include "server/job.h"
#include "server/metrics.h"
#include "server/sequence_pool.h"

namespace duo {

struct SchedulerOptions {
  int most_running = 8;   // requests worked on at once, 1..Session::kMostTogether
  int most_waiting = 64;  // further ones in the queue; beyond that they are refused
};

/// One request or kept sequence as others see it.
struct SequenceStatus {
  std::string id;
  std::string state;  // "waiting", "prefill", "decode", "kept"
  SessionId session_id;
  int64_t n_tokens = 0, n_prompt = 0, n_cached = 0, n_generated = 0;
  uint64_t kv_bytes = 0;
  double sparsity = 0;
  double seconds = 0;  // since its arrival; of a kept one 0
};

struct SchedulerStatus {
  std::vector<SequenceStatus> sequences;
  int64_t n_waiting = 0;
  uint64_t promised_bytes = 0, kept_bytes = 0, budget_bytes = 0, n_evicted = 0;
};

/// A named sequence in memory.
struct NamedSequence {
  SessionId id;
  int64_t n_tokens = 0;
  uint64_t kv_bytes = 0;
  bool busy = false;
};

/// Owns the thread that runs the model, and all sequences. Thread safe.
class Scheduler {
 public:
  /// All must outlive it. Without a tokenizer (null) there is no text, tokens only.
  Scheduler(const Model* model, const Tokenizer* tokenizer, Workspace* workspace, Metrics* metrics,
            const SchedulerOptions& options, const PoolLimits& limits);
  ~Scheduler();

  /// Queues a request. kResourceExhausted when it could never fit; kCancelled when the queue is full or the server
  /// stops (stopping() tells which).
  Result<std::shared_ptr<Job>> Submit(JobRequest request);
  /// Either all of them or none.
  Result<std::vector<std::shared_ptr<Job>>> SubmitAll(std::vector<JobRequest> requests);

  /// Takes no further requests. What runs and waits goes on for at most `seconds`, then is cancelled; returns when
  /// nothing runs any more.
  void Stop(double seconds);
  bool stopping() const { return stopping_; }

  /// What this caller may see: sequences and sums of its own, or all of them.
  SchedulerStatus Snapshot(const Caller& caller) const;
  int64_t n_waiting() const;

  // ---- sessions; see SequencePool
  std::vector<NamedSequence> Named() const;
  bool HasNamed(const SessionId& id) const;
  Result<PooledSequence*> CheckOut(const SessionId& id);
  void CheckIn(PooledSequence* sequence);
  Result<PooledSequence*> Reserve(const SessionId& id, const CacheSpec& spec, const SessionOptions& options,
                                  int64_t n_tokens);
  void Drop(PooledSequence* sequence);

 private:
  struct Running {
    std::shared_ptr<Job> job;
    PooledSequence* sequence = nullptr;
    int64_t n_read = 0;  // of the prompt
    std::unique_ptr<TokenLoop> loop;
    int32_t next = -1;  // to be decoded
    JobStats stats;
    Clock::time_point started, prefilled, last_token;
    Status status;
    bool done = false;
  };

  void Work();
  void Admit();
  /// True when the job left the queue, one way or the other.
  bool AdmitJob(const std::shared_ptr<Job>& job);
  void DropCancelledJobs();
  void FinishCancelled();
  void PrefillOneChunk();
  void DecodeAll();
  void DecodeGroup(const std::vector<Running*>& group);
  void TakeToken(Running* running);
  void Fail(Running* running, const Status& status);
  void LetGo();
  SequenceStatus StatusOf(const Running& running) const;
  void Publish();

  const Model* model_;
  const Tokenizer* tokenizer_;
  Metrics* metrics_;
  SchedulerOptions options_;

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable wake_;
  std::condition_variable idle_;
  SequencePool pool_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::vector<SequenceStatus> running_status_;
  std::atomic<bool> stopping_ = false;
  bool quit_ = false;

  std::vector<std::unique_ptr<Running>> running_;  // of the worker alone, in the order of arrival
  std::thread worker_;
};

}  // namespace duo
