// The numbers of an unfinished run in its state.json (docs/formats.md).
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
  int64_t log_bytes = 0;  // of the log when it has just the steps so far
};

/// An object with the keys that SavedRunOf reads.
Json SavedRunJson(const SavedRun& run);

/// `where` (the file's path) begins every message. kCorrupt: a key is missing or of another type, there are not n_gates
/// of a list, gates outside [0, 1], moments or penalty that no run can have, steps outside 0..n_steps.
Result<SavedRun> SavedRunOf(const Json& json, size_t n_gates, int64_t n_steps, const std::string& where);

}  // namespace duo
