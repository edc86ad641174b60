#include "server/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "server/prompt_turns.h"
#include "server/unavailable.h"

namespace duo {

// The worker's thread runs Work and all functions that touch `running_`. Threads of connections run the others, and
// hold `mutex_` while they read or change the queue.

// `worked_` is the last member, so every other member exists before the worker starts.
Scheduler::Scheduler(const Model* model, const Tokenizer* tokenizer, Workspace* workspace, Metrics* metrics,
                     WorkerThreads* threads, const SchedulerOptions& options, const PoolLimits& limits)
    : model_(model),
      tokenizer_(tokenizer),
      metrics_(metrics),
      options_(options),
      pool_(*model, workspace, limits),
      worked_(threads->Begin([this] { Work(); })) {
  DUO_CHECK(worked_.valid(), "the scheduler needs a thread that was started before it");
}

Scheduler::~Scheduler() {
  Stop(0);
  {
    MutexLock lock(&mutex_);
    quit_ = true;
  }
  wake_.notify_all();
  worked_.wait();
}

Result<std::shared_ptr<Job>> Scheduler::Submit(JobRequest request) {
  std::vector<JobRequest> one;
  one.push_back(std::move(request));
  DUO_ASSIGN_OR_RETURN(auto jobs, SubmitAll(std::move(one)));
  return jobs.front();
}

Result<std::vector<std::shared_ptr<Job>>> Scheduler::SubmitAll(std::vector<JobRequest> requests) {
  MutexLock lock(&mutex_);
  // `stopping_` is set under the mutex too. So no request is queued after Stop has seen the queue empty.
  if (stopping_) return Stopping();
  // All requests are checked before the first one is queued: a batch that is refused leaves nothing in the queue.
  for (const JobRequest& request : requests) {
    const int64_t n_tokens = std::ssize(request.prompt) + request.generate.max_tokens;
    DUO_RETURN_IF_ERROR(pool_.CheckEverFits(request.session, n_tokens));
  }
  if (std::ssize(requests) > options_.max_waiting) {
    return InvalidArgument("{} prompts at once, but this server's queue holds {}", requests.size(),
                           options_.max_waiting)
        .About("prompt");
  }
  // A step of the worker may take long. Until it ends, clients that have left must not hold places in the queue.
  DropCancelledJobs();
  if (std::ssize(queue_) + std::ssize(requests) > options_.max_waiting) {
    return NotNow(Unavailable::kQueueFull, fmt::format("the queue is full: {} requests wait", queue_.size()));
  }
  std::vector<std::shared_ptr<Job>> jobs;
  for (JobRequest& request : requests) {
    jobs.push_back(std::make_shared<Job>(std::move(request)));
    queue_.push_back({.job = jobs.back()});
  }
  wake_.notify_all();
  return jobs;
}

void Scheduler::Close() {
  MutexLock lock(&mutex_);
  stopping_ = true;
}

// A second call, like the destructor's, finds nothing left and returns at once.
void Scheduler::Stop(double seconds) {
  MutexLock lock(&mutex_);
  stopping_ = true;
  // `running_status_` stands for `running_`, which only the worker may read. A request is published in the same hold of
  // the mutex in which it leaves the queue, so one of the two always has it.
  const auto nothing_left = [this]() DUO_REQUIRES(mutex_) { return queue_.empty() && running_status_.empty(); };
  const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  if (idle_.wait_until(lock.native(), until, nothing_left)) return;
  quit_ = true;  // the worker cancels the rest
  wake_.notify_all();
  idle_.wait(lock.native(), nothing_left);
}

// ---------------------------------------------------------------- the worker

void Scheduler::Work() {
  MutexLock lock(&mutex_);
  while (true) {
    wake_.wait(lock.native(), [this]() DUO_REQUIRES(mutex_) { return quit_ || !queue_.empty() || !running_.empty(); });
    if (quit_) {
      // The clients of all jobs wait for Job::Finish.
      for (const Waiting& waiting : queue_) waiting.job->Finish(Stopping(), {}, "");
      queue_.clear();
      for (const auto& running : running_) Fail(running.get(), Stopping());
      FinishDone();
      Publish();
      return;
    }
    Admit();
    if (running_.empty()) {
      // All waiting requests wait for a session that is being saved or restored, or for its memory. The end of its
      // lease wakes this thread. A client that leaves does not, so the queue is checked again soon.
      Publish();
      if (!queue_.empty()) wake_.wait_for(lock.native(), std::chrono::milliseconds(20));
      continue;
    }
    Publish();
    // A step over a large model takes long. Without the mutex, requests are queued and the status is read meanwhile.
    lock.Unlock();
    FinishCancelled();
    DecodeAll();
    PrefillOneChunk();
    lock.Lock();
    FinishDone();
    Publish();
  }
}

void Scheduler::DropCancelledJobs() {
  std::erase_if(queue_, [this](const Waiting& waiting) {
    if (!waiting.job->cancelled()) return false;
    metrics_->CountCancelled(waiting.job->request.session_id.owner);
    waiting.job->Finish(Cancelled(), {}, "");
    return true;
  });
}

void Scheduler::Admit() {
  DropCancelledJobs();
  // Leases may end during this pass. Memory that they free then changes the pool's counter after this value was read,
  // so the next pass tries again.
  const uint64_t n_freed = pool_.n_freed();
  std::set<SessionId> wanted;  // sessions that earlier requests in the queue wait for
  for (size_t i = 0; i < queue_.size() && std::ssize(running_) < options_.max_running;) {
    Waiting& waiting = queue_[i];
    const SessionId& id = waiting.job->request.session_id;
    // A lease that begins after this check lets Acquire fail. Its end changes n_freed, and the request is tried again.
    // One that ends after this check must not let a later request of the session overtake this one.
    if (pool_.IsBusy(id)) {
      wanted.insert(id);
      waiting.tried.reset();  // it waits for the session, not for memory
    }
    if (wanted.count(id) != 0) {
      ++i;
      continue;
    }
    if (waiting.tried != n_freed && AdmitJob(waiting.job)) {
      queue_.erase(queue_.begin() + i);
      // The requests before it that lack memory have been passed once more.
      for (size_t ahead = 0; ahead < i; ++ahead) {
        if (queue_[ahead].tried == n_freed) ++queue_[ahead].n_passed;
      }
      continue;
    }
    waiting.tried = n_freed;
    // After enough others have passed it, nothing starts any more. So memory is freed until this one fits.
    if (waiting.n_passed >= kMaxPassed) return;
    if (!id.name.empty()) wanted.insert(id);
    ++i;
  }
}

bool Scheduler::AdmitJob(const std::shared_ptr<Job>& job) {
  const JobRequest& request = job->request;
  const auto n_prompt = std::ssize(request.prompt);
  // Log probabilities of a prompt exist only for tokens that are run now, so such a request reuses nothing.
  const auto claim = pool_.Acquire({.prompt = request.prompt,
                                    .n_tokens = n_prompt + request.generate.max_tokens,
                                    .spec = &request.spec,
                                    .options = &request.session,
                                    .id = request.session_id,
                                    .fresh = request.prompt_log_probs || !request.reuse});
  // Only this error passes with time. After the others the job leaves the queue with its error.
  if (!claim.ok() && claim.status().code() == StatusCode::kUnavailable) return false;
  if (!claim.ok()) {
    job->Finish(claim.status(), {}, "");
    return true;
  }
  auto running = std::make_unique<Running>();
  running->job = job;
  running->sequence = claim->sequence;
  running->n_read = claim->n_held;
  running->last_turn = turn_;
  running->started = Clock::now();
  running->loop = std::make_unique<TokenLoop>(model_->config(), tokenizer_, request.generate);
  running->stats.n_prompt = n_prompt;
  running->stats.n_cached = claim->n_held;
  running->stats.queue_s = SecondsBetween(job->submitted, running->started);
  metrics_->AddQueueSeconds(request.session_id.owner, running->stats.queue_s);
  metrics_->CountPrompt(request.session_id.owner, n_prompt, claim->n_held);
  running_.push_back(std::move(running));
  return true;
}

void Scheduler::FinishDone() {
  for (const auto& running : running_) {
    if (running->phase != Phase::kDone) continue;
    // If a program wrote into a file of weights, this step may have mixed old and new ones. Then the
    // request fails.
    const Status files = CheckForWrites(*model_);
    if (running->status.ok()) running->status = files;
    std::string rest;
    if (running->status.ok()) rest = running->loop->Flush();
    running->stats.finish = running->loop->finish();
    if (running->prefilled) running->stats.decode_s = SecondsSince(*running->prefilled);
    running->stats.kv_bytes = running->sequence->session->kv_bytes();
    metrics_->CountGenerated(running->job->request.session_id.owner, running->stats.n_generated);
    // After an error a sequence may hold half a step. One that ended between two steps is whole, unless its rows come
    // from a mixture of old and new weights.
    const StatusCode code = running->status.code();
    const bool whole =
        files.ok() && (code == StatusCode::kOk || code == StatusCode::kCancelled || code == StatusCode::kUnavailable);
    if (whole && running->sequence->session->len() > 0) {
      pool_.Release(running->sequence);
    } else {
      pool_.Drop(running->sequence);
    }
    // The sequence is idle before its client has the answer. So the client's next request finds the prefix.
    running->job->Finish(running->status, running->stats, std::move(rest));
  }
  std::erase_if(running_, [](const auto& running) { return running->phase == Phase::kDone; });
}

// Status reads these copies, because the worker changes `running_` without the mutex.
void Scheduler::Publish() {
  running_status_.clear();
  for (const auto& running : running_) running_status_.push_back(StatusOf(*running));
  if (queue_.empty() && running_status_.empty()) idle_.notify_all();
}

// ---------------------------------------------------------------- leases

Result<SequenceLease> Scheduler::CheckOut(const SessionId& id) {
  DUO_ASSIGN_OR_RETURN(PooledSequence* const sequence, pool_.CheckOut(id));
  return SequenceLease(this, sequence);
}

Result<SequenceLease> Scheduler::Reserve(const SessionId& id, const CacheSpec& spec, const SessionOptions& options,
                                         int64_t n_tokens) {
  DUO_ASSIGN_OR_RETURN(PooledSequence* const sequence, pool_.Reserve(id, spec, options, n_tokens));
  return SequenceLease(this, sequence);
}

void Scheduler::Release(PooledSequence* sequence) {
  pool_.Release(sequence);
  WakeWorker();
}

void Scheduler::Drop(PooledSequence* sequence) {
  pool_.Drop(sequence);
  WakeWorker();
}

// The worker may wait for the end of a lease. It holds the mutex from Admit until it waits. So a notification under the
// mutex comes either before Admit, which then sees what was freed, or after the wait has begun.
void Scheduler::WakeWorker() {
  MutexLock lock(&mutex_);
  wake_.notify_all();
}

}  // namespace duo
