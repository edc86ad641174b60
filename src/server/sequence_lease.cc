#include "server/sequence_lease.h"

#include <utility>

#include "server/scheduler.h"

namespace duo {

SequenceLease::SequenceLease(Scheduler* scheduler, PooledSequence* sequence)
    : scheduler_(scheduler), sequence_(sequence) {}

SequenceLease::SequenceLease(SequenceLease&& other) noexcept
    : scheduler_(other.scheduler_), sequence_(std::exchange(other.sequence_, nullptr)) {}

SequenceLease::~SequenceLease() {
  if (sequence_ == nullptr) return;
  if (sequence_->session == nullptr) {
    Drop();
  } else {
    scheduler_->Release(sequence_);
  }
}

void SequenceLease::Drop() { scheduler_->Drop(std::exchange(sequence_, nullptr)); }

}  // namespace duo
