// An error for which there was no Status to return.
#pragma once

#include <mutex>
#include <utility>

#include "duo/result.h"

namespace duo {

/// Keeps the first error until somebody can return it. Thread safe.
class CudaKeptStatus {
 public:
  void Keep(const Status& status) {
    const std::lock_guard lock(mutex_);
    if (kept_.ok() && !status.ok()) kept_ = status;
  }
  /// Whoever gets the error is the only one.
  Status Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(kept_, OkStatus());
  }

 private:
  std::mutex mutex_;
  Status kept_;
};

}  // namespace duo
