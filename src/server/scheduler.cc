#include "server/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "model/weights.h"
#include "server/prompt_turns.h"
#include "server/unavailable.h"

namespace duo {

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
  if (stopping_) return Stopping();
  for (const JobRequest& request : requests) {
    const int64_t n_tokens = std::ssize(request.prompt) + request.generate.max_tokens;
    DUO_RETURN_IF_ERROR(pool_.CheckEverFits(request.session, n_tokens));
  }
  if (std::ssize(requests) > options_.max_waiting) {
    return InvalidArgument("{} prompts at once, but this server's queue holds {}", requests.size(),
                           options_.max_waiting)
        .About("prompt");
  }
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

void Scheduler::Stop(double seconds) {
  MutexLock lock(&mutex_);
  stopping_ = true;
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
      for (const Waiting& waiting : queue_) waiting.job->Finish(Stopping(), {}, "");
      queue_.clear();
      for (const auto& running : running_) Fail(running.get(), Stopping());
      FinishDone();
      Publish();
      return;
    }
    Admit();
    if (running_.empty()) {
      // All waiting requests wait for a session that is being saved or restored, or for its memory.
      Publish();
      if (!queue_.empty()) wake_.wait_for(lock.native(), std::chrono::milliseconds(20));
      continue;
    }
    Publish();
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
  // Leases may end during this pass. Memory that they free then changes the pool's counter after this value was read, so
  // the next pass tries again.
  const uint64_t n_freed = pool_.n_freed();
  std::set<SessionId> wanted;  // sessions that earlier requests in the queue wait for
  for (size_t i = 0; i < queue_.size() && std::ssize(running_) < options_.max_running;) {
    Waiting& waiting = queue_[i];
    const SessionId& id = waiting.job->request.session_id;
    // A lease that begins after this check lets Acquire fail. Its end changes n_freed, and the request is tried again.
    // One that ends after this check must not let a later request of the session overtake this one.
    if (pool_.IsBusy(id)) wanted.insert(id);
    if (wanted.count(id) != 0) {
      ++i;
      continue;
    }
    if (waiting.tried != n_freed && AdmitJob(waiting.job)) {
      queue_.erase(queue_.begin() + i);
      for (size_t ahead = 0; ahead < i; ++ahead) {
        if (queue_[ahead].tried == n_freed) ++queue_[ahead].n_passed;
      }
      continue;
    }
    waiting.tried = n_freed;
    if (waiting.n_passed >= kMaxPassed) return;
    if (!id.name.empty()) wanted.insert(id);
    ++i;
  }
}

bool Scheduler::AdmitJob(const std::shared_ptr<Job>& job) {
  const JobRequest& request = job->request;
  const auto n_prompt = std::ssize(request.prompt);
  const auto claim = pool_.Acquire({.prompt = request.prompt,
                                    .n_tokens = n_prompt + request.generate.max_tokens,
                                    .spec = &request.spec,
                                    .options = &request.session,
                                    .id = request.session_id,
                                    .fresh = request.prompt_log_probs || !request.reuse});
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

void Scheduler::FinishCancelled() {
  for (const auto& running : running_) {
    if (running->phase == Phase::kDone || !running->job->cancelled()) continue;
    metrics_->CountCancelled(running->job->request.session_id.owner);
    Fail(running.get(), Cancelled());
  }
}

void Scheduler::Fail(Running* running, const Status& status) {
  running->status = status;
  running->phase = Phase::kDone;
}

Scheduler::Running* Scheduler::NextPrompt() {
  std::vector<Running*> reading;
  std::vector<UnreadPrompt> unread;
  for (const auto& running : running_) {
    if (running->phase != Phase::kPrefill) continue;
    reading.push_back(running.get());
    unread.push_back({.n_left = running->stats.n_prompt - running->n_read, .last_turn = running->last_turn});
  }
  if (reading.empty()) return nullptr;
  Running* next = reading[PromptOfTurn(turn_, unread)];
  for (Running* running : reading) running->stats.n_chunks_waited += running == next ? 0 : 1;
  next->last_turn = turn_++;
  return next;
}

void Scheduler::PrefillOneChunk() {
  Running* running = NextPrompt();
  if (running == nullptr) return;
  const bool alone = std::all_of(running_.begin(), running_.end(),
                                 [&](const auto& r) { return r.get() == running || r->phase == Phase::kDone; });
  const JobRequest& request = running->job->request;
  Session* session = running->sequence->session.get();
  const std::span<const int32_t> prompt(request.prompt);
  const SessionOptions& options = session->options();
  const int64_t chunk = alone && options.compute != ComputeType::kF32 ? options.chunk : PieceTokens(options);
  const int64_t n = std::min(chunk - running->n_read % chunk, running->stats.n_prompt - running->n_read);
  const auto ids = prompt.subspan(running->n_read, n);
  std::vector<std::optional<LogProbs>> log_probs;
  Status status;
  if (request.prompt_log_probs) {
    if (running->n_read == 0) log_probs.emplace_back();
    status = session->PrefillWithLogits(ids, running->n_read, running->n_read + n,
                                        [&](int64_t pos, std::span<const float> logits) {
                                          if (pos + 1 < running->stats.n_prompt) {
                                            const int32_t id = prompt[pos + 1];
                                            log_probs.emplace_back(LogProbsOf(logits, id, request.n_log_probs));
                                          }
                                          return OkStatus();
                                        });
  } else {
    status = session->Prefill(ids);
  }
  if (!status.ok()) return Fail(running, status);
  running->n_read += n;
  running->job->ReportPrompt(running->n_read, std::move(log_probs));
  if (running->n_read < running->stats.n_prompt) return;
  running->prefilled = Clock::now();
  running->stats.prefill_s = SecondsBetween(running->started, *running->prefilled);
  if (running->loop->finished()) {
    running->phase = Phase::kDone;
  } else {
    running->phase = Phase::kDecode;
    TakeToken(running);
  }
}

// Samples the next token from the logits and reports it to the client.
void Scheduler::TakeToken(Running* running) {
  const Session& session = *running->sequence->session;
  const JobRequest& request = running->job->request;
  const TokenLoop::Step step = running->loop->Next(session.logits(), session.tokens());
  const auto now = Clock::now();
  if (running->last_token) {
    metrics_->AddTokenSeconds(request.session_id.owner, SecondsBetween(*running->last_token, now));
  } else {
    running->stats.first_token_s = SecondsBetween(running->job->submitted, now);
    metrics_->AddFirstTokenSeconds(request.session_id.owner, running->stats.first_token_s);
  }
  running->last_token = now;
  running->next = step.id;
  if (step.is_text) {
    ++running->stats.n_generated;
    JobToken token{.id = step.id, .piece = step.piece, .log_probs = {}};
    if (request.n_log_probs >= 0) token.log_probs = LogProbsOf(session.logits(), step.id, request.n_log_probs);
    running->job->ReportToken(std::move(token));
  }
  if (running->loop->finished()) running->phase = Phase::kDone;
}

void Scheduler::DecodeAll() {
  std::vector<Running*> group;
  std::map<std::string, int64_t> n_of_owner;
  for (const auto& running : running_) {
    if (running->phase != Phase::kDecode) continue;
    group.push_back(running.get());
    ++n_of_owner[running->job->request.session_id.owner];
  }
  if (group.empty()) return;
  metrics_->AddBatch(n_of_owner);
  DecodeGroup(group);
}

void Scheduler::DecodeGroup(const std::vector<Running*>& group) {
  std::vector<Session*> sessions;
  std::vector<int32_t> ids;
  for (const Running* running : group) {
    sessions.push_back(running->sequence->session.get());
    ids.push_back(*running->next);
  }
  const int64_t before = sessions[0]->len();
  const Status status = Session::DecodeTogether(sessions, ids);
  if (status.ok() || sessions[0]->len() != before) {  // grown: sessions without logits cannot repeat the step
    for (Running* running : group) {
      if (running->sequence->session->logits().empty()) {
        Fail(running, status);
      } else {
        TakeToken(running);
      }
    }
    return;
  }
  if (group.size() == 1) {
    if (status.code() == StatusCode::kResourceExhausted && sessions[0]->len() == sessions[0]->options().max_context) {
      group[0]->loop->Stop(FinishReason::kContextFull);
      group[0]->phase = Phase::kDone;
      return;
    }
    return Fail(group[0], status);
  }
  // At least one of them cannot continue. Each takes the step alone, so that the others do.
  for (Running* running : group) DecodeGroup({running});
}

void Scheduler::FinishDone() {
  for (const auto& running : running_) {
    if (running->phase != Phase::kDone) continue;
    const Status files = model_->weights().CheckFiles(Checkpoint::Replaced::kIsFine);
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
    running->job->Finish(running->status, running->stats, std::move(rest));
  }
  std::erase_if(running_, [](const auto& running) { return running->phase == Phase::kDone; });
}

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
