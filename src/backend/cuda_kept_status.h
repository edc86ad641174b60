// Keeps the error of an operation that returns void.
#pragma once

#include <mutex>
#include <utility>

#include "duo/result.h"

namespace duo {

/// Keeps the first error until Take(). Thread safe.
class CudaKeptStatus {
 public:
  void Keep(const Status& status) {
    const std::lock_guard lock(mutex_);
    if (kept_.ok() && !status.ok()) kept_ = status;
  }
  /// Returns the error and clears it, so only one caller gets it.
  Status Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(kept_, OkStatus());
  }

 private:
  std::mutex mutex_;
  Status kept_;
};

}  // namespace duo
