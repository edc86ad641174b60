// Long work reports its progress to a callback of the caller. The library itself never prints.
#pragma once

#include <cstdint>
#include <functional>

namespace duo {

struct Progress {
  const char* stage = "";     // "prefill", "load"...: static storage
  int64_t done = 0;           // units finished so far
  int64_t total = 0;          // all units; 0 when unknown
  const char* unit = "";      // "tokens", "bytes": static storage
  double seconds = 0;         // since the stage began
  uint64_t memory_bytes = 0;  // KV bytes committed so far, 0 when it does not apply
};

/// Called between steps, from the thread that called the library. Return false to stop: the call then returns
/// kCancelled, and its own comment says in what state it leaves its objects. May be empty.
using ProgressCallback = std::function<bool(const Progress&)>;

}  // namespace duo
