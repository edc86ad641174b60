// The scheduler's requests and sequences as other threads see them.
#include <utility>

#include "server/scheduler.h"

namespace duo {
namespace {

SequenceStatus StatusOfWaiting(const Job& job) {
  SequenceStatus status;
  status.id = job.request.id;
  status.state = SequenceStatus::State::kWaiting;
  status.session_id = job.request.session_id;
  status.n_prompt = std::ssize(job.request.prompt);
  status.sparsity = SparsityOf(job.request.session.heads);
  status.seconds = SecondsSince(job.submitted);
  return status;
}

SequenceStatus StatusOfIdle(const IdleSequence& sequence) {
  SequenceStatus status;
  status.state = SequenceStatus::State::kIdle;
  status.session_id = sequence.id;
  status.n_tokens = sequence.n_tokens;
  status.kv_bytes = sequence.kv_bytes;
  status.sparsity = sequence.sparsity;
  return status;
}

}  // namespace

int64_t Scheduler::n_waiting() const {
  MutexLock lock(&mutex_);
  return std::ssize(queue_);
}

SequenceStatus Scheduler::StatusOf(const Running& running) const {
  const JobRequest& request = running.job->request;
  return {.id = request.id,
          .state = running.phase == Phase::kPrefill ? SequenceStatus::State::kPrefill : SequenceStatus::State::kDecode,
          .session_id = request.session_id,
          .n_tokens = running.sequence->session->len(),
          .n_prompt = running.stats.n_prompt,
          .n_cached = running.stats.n_cached,
          .n_generated = running.stats.n_generated,
          .kv_bytes = running.sequence->session->kv_bytes(),
          .sparsity = SparsityOf(request.session.heads),
          .seconds = SecondsSince(running.job->submitted)};
}

// The worker changes what is published and the pool within one hold of the mutex. So a request is seen once: as
// waiting, as running, or as the idle sequence that it left.
SchedulerStatus Scheduler::Snapshot(const Caller& caller) const {
  MutexLock lock(&mutex_);
  SchedulerStatus status;
  for (const SequenceStatus& running : running_status_) {
    if (caller.Sees(running.session_id.owner)) status.sequences.push_back(running);
  }
  for (const Waiting& waiting : queue_) {
    const std::shared_ptr<Job>& job = waiting.job;
    if (!caller.Sees(job->request.session_id.owner)) continue;
    ++status.n_waiting;
    status.sequences.push_back(StatusOfWaiting(*job));
  }
  const PoolStatus pool = pool_.StatusFor(caller);
  for (const IdleSequence& idle : pool.idle) status.sequences.push_back(StatusOfIdle(idle));
  status.reserved_bytes = pool.reserved_bytes;
  status.idle_bytes = pool.idle_bytes;
  status.growth_bytes = pool.growth_bytes;
  status.budget_bytes = pool_.budget_bytes() - pool.growth_bytes;
  status.n_evicted = pool.n_evicted;
  return status;
}

std::vector<NamedSequence> Scheduler::Named() const {
  MutexLock lock(&mutex_);
  std::vector<NamedSequence> named = pool_.Named();
  for (NamedSequence& sequence : named) {
    // The pool knows only the reservation of a running request.
    for (const SequenceStatus& running : running_status_) {
      if (running.session_id != sequence.id) continue;
      sequence.n_tokens = running.n_tokens;
      sequence.kv_bytes = running.kv_bytes;
    }
  }
  return named;
}

bool Scheduler::HasNamed(const SessionId& id) const { return pool_.Has(id); }

}  // namespace duo
