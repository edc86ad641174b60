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

SequenceStatus StatusOfIdle(const PooledSequence& sequence) {
  SequenceStatus status;
  status.state = SequenceStatus::State::kIdle;
  status.session_id = sequence.id;
  status.n_tokens = sequence.session->len();
  status.kv_bytes = sequence.session->kv_bytes();
  status.sparsity = SparsityOf(sequence.options.heads);
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
  for (const PooledSequence& s : pool_.sequences()) {
    if (s.busy() || !caller.Sees(s.id.owner)) continue;
    status.sequences.push_back(StatusOfIdle(s));
  }
  status.promised_bytes = pool_.promised_bytes(caller);
  status.kept_bytes = pool_.kept_bytes(caller);
  status.growth_bytes = pool_.growth_bytes();
  status.budget_bytes = pool_.budget_bytes() - status.growth_bytes;
  status.n_evicted = pool_.n_evicted();
  return status;
}

std::vector<NamedSequence> Scheduler::Named() const {
  MutexLock lock(&mutex_);
  std::vector<NamedSequence> named;
  for (const PooledSequence& s : pool_.sequences()) {
    if (s.id.name.empty()) continue;
    // Another thread may change a busy session, so only published values are used.
    NamedSequence entry{.id = s.id, .n_tokens = s.longest, .kv_bytes = s.bytes, .busy = s.busy()};
    if (!s.busy()) {
      entry.n_tokens = s.session->len();
      entry.kv_bytes = s.session->kv_bytes();
    }
    for (const SequenceStatus& running : running_status_) {
      if (running.session_id != s.id) continue;
      entry.n_tokens = running.n_tokens;
      entry.kv_bytes = running.kv_bytes;
    }
    named.push_back(std::move(entry));
  }
  return named;
}

bool Scheduler::HasNamed(const SessionId& id) const {
  MutexLock lock(&mutex_);
  return pool_.Has(id);
}

}  // namespace duo
