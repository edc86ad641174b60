// Reads and writes the numbers of an unfinished run in its state.json (docs/formats.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/json.h"
#include "duo/result.h"
#include "identify/gate_optimizer.h"

namespace duo {

struct SavedRun {
  GateState state;
  int64_t log_bytes = 0;  // size of the log with exactly the steps so far
};

/// Returns an object with the keys that SavedRunOf reads.
Json SavedRunJson(const SavedRun& run);

/// Every message begins with `where`, the file's path. kCorrupt if a key is missing or has another type, or a list does
/// not have n_gates numbers. Also kCorrupt if a number is out of range. Gates must be in [0, 1] and the step in
/// 0..n_steps; second moments, the penalty and log_bytes must be at least 0; all numbers must be finite.
Result<SavedRun> SavedRunOf(const Json& json, size_t n_gates, int64_t n_steps, const std::string& where);

}  // namespace duo
