// The CPU backend for tests.
#pragma once

#include "backend/backend.h"

namespace duo {

/// One that uses so many threads.
inline BackendPtr CpuWith(int n_threads) {
  return CreateBackend({.device = Device::kCpu, .n_threads = n_threads}).value();
}

}  // namespace duo
