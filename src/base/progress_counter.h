// Reports how much of a long work is done.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "base/error.h"
#include "duo/progress.h"

namespace duo {

/// Counts the units of one stage and reports them to the callback. The callback, which may be empty, and the texts must
/// outlive the counter.
class ProgressCounter {
 public:
  ProgressCounter(const ProgressCallback& progress, const char* stage, const char* unit, int64_t total)
      : progress_(progress), stage_(stage), unit_(unit), total_(total) {}

  /// For a total that is known only after the work began.
  void SetTotal(int64_t total) { total_ = total; }

  /// Counts n more units and reports the sum. kCancelled if the callback returns false.
  Status Add(int64_t n) {
    done_ += n;
    return Report() ? OkStatus() : Cancelled();
  }

  /// Reports the same sum again. Returns what the callback returns.
  bool Report() const {
    return !progress_ ||
           progress_({.stage = stage_, .done = done_, .total = total_, .unit = unit_, .seconds = SecondsSince(begin_)});
  }

  /// A callback for the work of one unit, which has no units of its own: it reports the sum again.
  ProgressCallback Callback() const {
    return [this](const Progress&) { return Report(); };
  }

 private:
  const ProgressCallback& progress_;
  const char* stage_;
  const char* unit_;
  int64_t done_ = 0;
  int64_t total_;
  Clock::time_point begin_ = Clock::now();
};

}  // namespace duo
