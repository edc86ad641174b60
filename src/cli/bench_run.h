// The measurements of `duo bench`: full attention and the split cache on the same model, at the same depths, in one
// run.
#pragma once

#include <cstdint>
#include <vector>

#include "cli/bench_table.h"
#include "duo/model.h"
#include "duo/session.h"

namespace duo::cli {

enum class Fill : uint8_t { kPrefill, kSynthetic };

struct BenchTests {
  std::vector<int64_t> depths;  // tokens in the cache
  int64_t decode = 16;          // tokens per repetition, 0 = leave out
  int64_t prefill = 512;        // tokens per repetition, 0 = leave out
  int repeat = 3;
  Fill fill = Fill::kPrefill;

  /// Max tokens that a session at `depth` will hold. Decode repetitions follow one another without rewinding.
  int64_t Longest(int64_t depth) const;
  /// Whether ring snapshots take a session back to `depth`. In a shallow cache running the tokens again is cheaper.
  bool UsesSnapshot(int64_t depth) const;
};

/// A mode and its options: heads, window, types, chunk. OptionsAt sets the others for each depth.
struct BenchMode {
  std::string name;
  SessionOptions session;
};

/// The options with which a mode runs at a depth.
SessionOptions OptionsAt(const BenchMode& mode, const BenchTests& tests, int64_t depth);

/// Max bytes that KV and activations of this mode take at `depth`. Errors as PlanMemory.
Result<uint64_t> PlannedBytes(const BenchMode& mode, const BenchTests& tests, int64_t depth, const ModelConfig& config,
                              const Backend& backend);

/// Adds the rows of all depths, tests and modes to report->rows and sets report->plan_bytes and report->read_gb_s. The
/// report must already have the ceilings of the products. With `interleaved` the sessions of all modes exist at the
/// same time. kCancelled on Ctrl-C.
Status RunBenchTests(const Model& model, const std::vector<BenchMode>& modes, const BenchTests& tests, bool interleaved,
                     const ProgressCallback& progress, BenchReport* report);

}  // namespace duo::cli
