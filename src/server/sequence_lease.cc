#include "server/sequence_lease.h"

#include <utility>

#include "server/scheduler.h"

namespace duo {

SequenceLease::SequenceLease(Scheduler* scheduler, PooledSequence* sequence)
    : scheduler_(scheduler), sequence_(sequence) {}

SequenceLease::SequenceLease(SequenceLease&& other) noexcept
    : scheduler_(other.scheduler_), sequence_(std::exchange(other.sequence_, nullptr)) {}

// A lease ends on the thread that holds it. That thread must not hold the scheduler's mutex, which the ends take.
SequenceLease::~SequenceLease() {
  if (sequence_ == nullptr) return;
  if (sequence_->session == nullptr) {  // its restore failed
    Drop();
  } else {
    scheduler_->Release(sequence_);
  }
}

void SequenceLease::Drop() { scheduler_->Drop(std::exchange(sequence_, nullptr)); }

}  // namespace duo
