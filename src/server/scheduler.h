// Serves many requests with one model. Prompts are read in chunks. Between chunks, every text that is being generated
// gets one token, all in one pass over the weights.
//
// A request is in one place at a time. It waits in `queue_` in the order of arrival. Then it runs in `running_` in the
// order of admission, first in Phase::kPrefill, then in Phase::kDecode. It leaves in the step in which it becomes
// kDone. One thread, the worker, takes steps. A step has five parts.
//   1. Requests are admitted.
//   2. Requests whose client has left are ended.
//   3. Every text that is being generated gets one token, all in one pass.
//   4. One prompt reads one chunk.
//   5. Requests that are done release their sequences.
//
// Admission. A request runs when fewer than `max_running` others run and memory for all of its tokens can be reserved.
// So a running request never runs out of memory. Requests are admitted in the order of arrival, with two exceptions.
//   1. A request for a session waits for earlier requests of that session and for a save of it. Others pass it.
//   2. At most kMaxPassed later requests that fit may pass a request for which memory does not suffice. After that, it
//      blocks everything after it until it is admitted. Running requests end, and each request fits alone (Submit
//      refuses the others). So it is always admitted in the end.
//
// Turns. Prompts take turns with chunks; see prompt_turns.h for how long each waits. While other requests run, a chunk
// is a piece (PieceTokens), so a text waits for its next token at most as long as one piece takes. Pieces end at
// multiples of their size, so they do not drift across the positions of snapshots. With ComputeType::kF32 they are the
// same whatever is cached or runs beside them (see sequence_pool.h).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "duo/model.h"
#include "duo/session.h"
#include "duo/tokenizer.h"
#include "engine/serving.h"
#include "server/job.h"
#include "server/metrics.h"
#include "server/sequence_lease.h"
#include "server/sequence_pool.h"
#include "server/worker_threads.h"

namespace duo {

/// Max later requests that are admitted ahead of one that waits for memory.
constexpr int kMaxPassed = 16;

struct SchedulerOptions {
  int max_running = 8;   // max requests that run at once, 1..Session::kMaxTogether
  int max_waiting = 64;  // max requests in the queue; further ones are refused
};

/// One request or idle sequence as the status shows it.
struct SequenceStatus {
  enum class State : uint8_t { kWaiting, kPrefill, kDecode, kIdle };
  std::string id;
  State state = State::kWaiting;
  SessionId session_id;
  int64_t n_tokens = 0, n_prompt = 0, n_cached = 0, n_generated = 0;
  uint64_t kv_bytes = 0;
  double sparsity = 0;
  double seconds = 0;  // since its arrival; 0 for an idle sequence
};

struct SchedulerStatus {
  std::vector<SequenceStatus> sequences;
  int64_t n_waiting = 0;
  uint64_t reserved_bytes = 0, idle_bytes = 0;  // parts of budget_bytes, of busy and of idle sequences
  uint64_t budget_bytes = 0;                    // for sequences now, without growth_bytes
  uint64_t growth_bytes = 0;                    // by which the workspace exceeds its own size
  uint64_t n_evicted = 0;
};

/// Runs the model on a thread that it occupies for its whole life, and owns all sequences. Thread safe.
///
/// Invariants.
///   1. The worker holds `mutex_` in parts 1 and 5 of a step and releases it in parts 2 to 4. It takes the pool's own
///      mutex only inside the pool's functions, after `mutex_`. Leases take the pool's mutex alone. So a lease may
///      begin or end at any moment, also in parts 1 and 5, while status and requests see a step only as a whole.
///   2. Only the worker touches `running_` and `turn_`. In parts 2 to 4 it works only on running requests, whose
///      sequences are busy in the pool.
///   3. Other threads never read the session of a busy sequence, unless they hold its lease. They read what the
///      worker has published in `running_status_`.
///   4. Every request in `running_` has a busy sequence with a reservation for its prompt and its max_tokens.
///   5. Job::Finish is called once for each job, when the job leaves `queue_` without running or leaves `running_`.
///   6. A sequence goes back to the pool only if it is whole. After an error within a step it is dropped.
class Scheduler {
 public:
  /// All arguments must outlive it. Without a tokenizer (null) there is no text, only tokens. `threads` must be able to
  /// run one more task.
  Scheduler(const Model* model, const Tokenizer* tokenizer, Workspace* workspace, Metrics* metrics,
            WorkerThreads* threads, const SchedulerOptions& options, const PoolLimits& limits);
  ~Scheduler();

  /// Queues a request. Fails with kResourceExhausted when it could never fit, and with kUnavailable
  /// (server/unavailable.h) when the queue is full or the server stops.
  Result<std::shared_ptr<Job>> Submit(JobRequest request);
  /// Queues all requests or none. Also fails with kInvalidArgument when there are more than the queue can hold.
  Result<std::vector<std::shared_ptr<Job>>> SubmitAll(std::vector<JobRequest> requests);

  /// Accepts no further requests. Requests that run or wait continue.
  void Close();
  /// Like Close, but requests that run or wait are cancelled after `seconds`. Returns when none is left.
  void Stop(double seconds);
  bool stopping() const { return stopping_; }

  /// The status that this caller may see: its own sequences and their sums, or those of all owners.
  SchedulerStatus Snapshot(const Caller& caller) const;
  int64_t n_waiting() const;

  // ---- sessions; see SequencePool
  std::vector<NamedSequence> Named() const;
  bool HasNamed(const SessionId& id) const;
  Result<SequenceLease> CheckOut(const SessionId& id);
  Result<SequenceLease> Reserve(const SessionId& id, const CacheSpec& spec, const SessionOptions& options,
                                int64_t n_tokens);

 private:
  friend class SequenceLease;  // ends with Release or Drop

  struct Waiting {
    std::shared_ptr<Job> job;
    /// pool_.n_freed() when memory did not suffice; useless to try again until it changes. Empty before the first try.
    std::optional<uint64_t> tried = std::nullopt;
    int n_passed = 0;  // later requests admitted ahead of it
  };
  enum class Phase : uint8_t { kPrefill, kDecode, kDone };
  struct Running {
    std::shared_ptr<Job> job;
    PooledSequence* sequence = nullptr;
    Phase phase = Phase::kPrefill;
    int64_t n_read = 0;     // prompt tokens
    int64_t last_turn = 0;  // see UnreadPrompt
    std::unique_ptr<TokenLoop> loop;
    std::optional<int32_t> next;  // the next token to decode, in kDecode
    JobStats stats;
    Clock::time_point started;
    std::optional<Clock::time_point> prefilled;   // when the whole prompt was read
    std::optional<Clock::time_point> last_token;  // when the last token was generated
    Status status;
  };

  void Work();
  void Admit() DUO_REQUIRES(mutex_);
  /// Returns false when memory does not suffice now. Otherwise the job must leave the queue, since it runs or has
  /// failed.
  bool AdmitJob(const std::shared_ptr<Job>& job) DUO_REQUIRES(mutex_);
  void DropCancelledJobs() DUO_REQUIRES(mutex_);
  void FinishCancelled();
  /// The request whose prompt reads the next chunk; null when no prompt is being read.
  Running* NextPrompt();
  void PrefillOneChunk();
  void DecodeAll();
  void DecodeGroup(const std::vector<Running*>& group);
  void TakeToken(Running* running);
  void Fail(Running* running, const Status& status);
  /// Reports the results of requests that are done, and releases their sequences.
  void FinishDone() DUO_REQUIRES(mutex_);
  /// The ends of a lease.
  void Release(PooledSequence* sequence) DUO_EXCLUDES(mutex_);
  void Drop(PooledSequence* sequence) DUO_EXCLUDES(mutex_);
  void WakeWorker() DUO_EXCLUDES(mutex_);
  SequenceStatus StatusOf(const Running& running) const;
  void Publish() DUO_REQUIRES(mutex_);

  const Model* model_;
  const Tokenizer* tokenizer_;
  Metrics* metrics_;
  const SchedulerOptions options_;

  mutable Mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  SequencePool pool_;  // has a mutex of its own
  std::deque<Waiting> queue_ DUO_GUARDED_BY(mutex_);
  std::vector<SequenceStatus> running_status_ DUO_GUARDED_BY(mutex_);
  std::atomic<bool> stopping_ = false;
  bool quit_ DUO_GUARDED_BY(mutex_) = false;

  std::vector<std::unique_ptr<Running>> running_;  // only for the worker; in the order of admission
  int64_t turn_ = 0;                               // only for the worker; chunks read so far
  std::future<void> worked_;                       // ready when the worker has ended
};

}  // namespace duo
