// A sequence of the scheduler's pool in the hands of one thread, which saves or restores it.
#pragma once

#include "server/sequence_pool.h"

namespace duo {

class Scheduler;

/// The sequence is busy while the lease exists, so only the lease's thread reads or changes it. After that it is idle.
/// One that has no session then, because it was not restored, is removed. The scheduler must outlive the lease. It can
/// be moved, but not copied.
class SequenceLease {
 public:
  SequenceLease(Scheduler* scheduler, PooledSequence* sequence);
  ~SequenceLease();
  SequenceLease(SequenceLease&& other) noexcept;
  SequenceLease& operator=(SequenceLease&&) = delete;

  PooledSequence* operator->() const { return sequence_; }
  /// Removes the sequence. Nothing may be read through the lease after that.
  void Drop();

 private:
  Scheduler* scheduler_;
  PooledSequence* sequence_;  // null after Drop or a move
};

}  // namespace duo
