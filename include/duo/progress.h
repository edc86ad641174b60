// How long work reports that it advances. The library never prints: the caller's callback does.
#pragma once

#include <cstdint>
#include <functional>

namespace duo {

struct Progress {
  const char* stage = "";     // "prefill", "load"...: static storage
  int64_t done = 0;           // units finished
  int64_t total = 0;          // units in all; 0 when unknown
  const char* unit = "";      // "tokens", "bytes": static storage
  double seconds = 0;         // since the stage began
  uint64_t memory_bytes = 0;  // KV bytes committed so far, 0 when it does not apply
};

/// Called from the thread that called the library, between steps. Return false to stop: the work then ends with
/// kCancelled and whatever the header of the called function says about its state. May be empty.
using ProgressCallback = std::function<bool(const Progress&)>;

}  // namespace duo
