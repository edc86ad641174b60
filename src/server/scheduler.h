// Many requests, one model: prompts in chunks, and between them one token of every text that is being generated, in one
// pass over the weights.
//
// A request is in one place at a time. It waits in `queue_` in the order of arrival, then runs in `running_` in the
// order of admission, first in Phase::kPrefill, then in Phase::kDecode, and leaves when it is kDone. One thread, the
// worker, takes steps; all others only queue, ask and cancel. In a step
//   1. requests are admitted,
//   2. those whose client has left are ended,
//   3. every running text gets one token, in one pass,
//   4. one prompt reads one chunk,
//   5. requests that are done release their sequences.
//
// Admission. A request runs when there is a place among `max_running` and its sequence is promised memory for all of
// its tokens: nothing that runs is ever out of memory. The order of admission:
//   - A request for a session waits for earlier requests of that session and for a save of it; others pass it.
//   - A request that memory does not suffice for lets later ones pass that fit, kMaxPassed at most. Then nobody is
//     admitted before it until it is. Running requests end, and each request alone fits (Submit refuses the others), so
//     it always comes to be admitted.
//   - Otherwise the order is that of arrival.
//
// Prompts take turns with chunks: see prompt_turns.h for how long each waits. While others run a chunk is a
// piece (PieceTokens), so that a text waits for its next token no longer than for one. Pieces end at multiples of their
// size: they do not drift across the positions of snapshots, and with ComputeType::kF32 they are the same whatever is
// cached or runs beside (see sequence_pool.h).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "duo/model.h"
#include "duo/session.h"
#include "duo/tokenizer.h"
#include "engine/token_loop.h"
#include "server/job.h"
#include "server/metrics.h"
#include "server/sequence_pool.h"
#include "server/worker_threads.h"

namespace duo {

/// Requests that may be admitted before one that waits for memory.
constexpr int kMaxPassed = 16;

struct SchedulerOptions {
  int max_running = 8;   // requests worked on at once, 1..Session::kMaxTogether
  int max_waiting = 64;  // further ones in the queue; beyond that they are refused
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
  uint64_t promised_bytes = 0, kept_bytes = 0;  // of budget_bytes
  uint64_t budget_bytes = 0;                    // that sequences may take now
  uint64_t growth_bytes = 0;                    // of the workspace, beyond its own: what budget_bytes lacks
  uint64_t n_evicted = 0;
};

/// A named sequence in memory.
struct NamedSequence {
  SessionId id;
  int64_t n_tokens = 0;
  uint64_t kv_bytes = 0;
  bool busy = false;
};

/// Runs the model, on a thread that it takes for as long as it lives, and owns all sequences. Thread safe.
class Scheduler {
 public:
  /// All must outlive it. Without a tokenizer (null) there is no text, tokens only. `threads` must have one to spare.
  Scheduler(const Model* model, const Tokenizer* tokenizer, Workspace* workspace, Metrics* metrics,
            WorkerThreads* threads, const SchedulerOptions& options, const PoolLimits& limits);
  ~Scheduler();

  /// Queues a request. kResourceExhausted when it could never fit; kUnavailable (server/unavailable.h) when the queue
  /// is full or the server stops.
  Result<std::shared_ptr<Job>> Submit(JobRequest request);
  /// Either all of them or none.
  Result<std::vector<std::shared_ptr<Job>>> SubmitAll(std::vector<JobRequest> requests);

  /// Takes no further requests; what runs and waits goes on.
  void Close();
  /// The same, and lets what runs and waits go on for at most `seconds` before it is cancelled; returns when nothing
  /// runs any more.
  void Stop(double seconds);
  bool stopping() const { return stopping_; }

  /// The status that this caller may see: sequences and sums of its own, or all of them.
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
  struct Waiting {
    std::shared_ptr<Job> job;
    uint64_t tried = 0;  // pool_.n_freed() when memory did not suffice for it: no use to try again until that changes
    int n_passed = 0;    // admitted meanwhile
  };
  enum class Phase : uint8_t { kPrefill, kDecode, kDone };
  struct Running {
    std::shared_ptr<Job> job;
    PooledSequence* sequence = nullptr;
    Phase phase = Phase::kPrefill;
    int64_t n_read = 0;     // of the prompt
    int64_t last_turn = 0;  // see UnreadPrompt
    std::unique_ptr<TokenLoop> loop;
    int32_t next = -1;  // to be decoded, in kDecode
    JobStats stats;
    Clock::time_point started, prefilled, last_token;
    Status status;
  };

  void Work();
  void Admit();
  /// False when memory does not suffice now; else the job is to leave the queue, one way or the other.
  bool AdmitJob(const std::shared_ptr<Job>& job);
  void DropCancelledJobs();
  void FinishCancelled();
  /// The request whose turn it is; null when no prompt is being read.
  Running* NextPrompt();
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
  std::deque<Waiting> queue_;
  std::vector<SequenceStatus> running_status_;
  std::atomic<bool> stopping_ = false;
  bool quit_ = false;

  std::vector<std::unique_ptr<Running>> running_;  // of the worker alone, in the order of admission
  int64_t turn_ = 0;                               // chunks read so far; of the worker alone
  std::future<void> worked_;                       // ready when the worker has ended
};

}  // namespace duo
