// The measurements of `duo bench`: full attention and the split cache on the same model, at the same depths, in one
// run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/go_on.h"
#include "duo/backend.h"
#include "duo/model.h"
#include "duo/progress.h"
#include "duo/result.h"
#include "duo/session.h"

namespace duo {

/// How the cache gets its tokens: the model reads them, or made-up K and V are written.
enum class CacheFill : uint8_t { kPrefill, kSynthetic };

struct BenchTests {
  std::vector<int64_t> depths;  // tokens in the cache
  int64_t decode = 16;          // tokens per repetition, 0 = leave out
  int64_t prefill = 512;        // tokens per repetition, 0 = leave out
  int repeat = 3;
  CacheFill fill = CacheFill::kPrefill;

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

/// One test of one mode at one depth. Times are medians, in milliseconds per token of the whole model.
struct BenchRow {
  std::string test;     // "decode", "prefill"
  std::string mode;     // "full", "duo"
  int64_t depth = 0;    // tokens in the cache when the test begins
  int64_t tokens = 0;   // tokens measured (decode: all steps; prefill: each repetition)
  std::string weights;  // element type
  std::string kv_type;
  double sparsity = 0;
  double ms_per_token = 0;
  double ms_per_token_p90 = 0;  // 9 of 10 samples (decode: steps, prefill: repetitions) took at most this
  double attention_ms = 0;
  double linear_ms = 0;          // matrix products
  double attention_gb_s = 0;     // bytes of K and V that had to be read / attention time
  double attention_gflop_s = 0;  // 4 * head_dim operations for every pair of query and key it sees / attention time
  double gemm_gflop_s = 0;       // 2 operations per weight and token / time of the products
  double linear_gb_s = 0;        // bytes of the weights, read once per chunk or step / time of the products
  uint64_t kv_bytes = 0;         // of the session at this depth
  double bytes_per_token = 0;    // weights and KV that must be read
  double read_gb_s = 0;          // read bandwidth, measured between the samples
  double floor_ms = 0;           // bytes_per_token / read bandwidth, or operations / peak, whichever is more
  std::string fill;              // "prefill", "synthetic"
};

struct BenchReport {
  ModelConfig model;  // n_layers = layers that ran
  int n_layers_of_model = 0;
  bool random_weights = false;
  uint64_t weights_bytes = 0;
  std::string backend;  // "cpu, avx512_bf16, 2 threads"
  int threads = 0;
  std::string heads;  // how the heads were chosen
  int64_t sink = 0, recent = 0, chunk = 0;
  bool interleaved = false;  // full and duo took turns
  double read_gb_s = 0;      // median over all rows' measurements
  double gemm_bf16_gflop_s = 0;
  std::optional<double> gemm_f32_gflop_s;  // only for ComputeType::kF32; then the ceiling of the products
  std::optional<double> gemm_int8_gop_s;   // only for ComputeType::kInt8; then the ceiling of the products
  uint64_t peak_rss_bytes = 0;
  uint64_t base_rss_bytes = 0;  // of the process before the model was opened
  bool on_device = false;
  uint64_t available_bytes = 0;  // of the backend's memory before the model was opened
  uint64_t device_bytes = 0;     // max of them taken since then, on a device
  uint64_t plan_bytes = 0;       // planned weights, KV and activations of the sessions that existed at the same time
  std::vector<BenchRow> rows;

  double gemm_ceiling() const { return gemm_int8_gop_s.value_or(gemm_f32_gflop_s.value_or(gemm_bf16_gflop_s)); }
};

/// The options with which a mode runs at a depth.
SessionOptions OptionsAt(const BenchMode& mode, const BenchTests& tests, int64_t depth);

/// Max bytes that KV and activations of this mode take at `depth`. Errors as PlanMemory.
Result<uint64_t> PlannedBytes(const BenchMode& mode, const BenchTests& tests, int64_t depth, const ModelConfig& config,
                              const Backend& backend);

/// Measures the machine's own speed of products: the report's gemm_ fields. Also lets the backend allocate the block of
/// memory on which bandwidth is measured between the tests. Errors as the backend's measurements: kResourceExhausted.
Status MeasureCeilings(ComputeType compute, Backend* backend, BenchReport* report);

/// Adds the rows of all depths, tests and modes to report->rows and sets report->plan_bytes and report->read_gb_s. The
/// report must already have the ceilings. With `interleaved` the sessions of all modes exist at the same time.
/// kCancelled when `progress` or `go_on`, which is asked after every step, returns false.
Status RunBenchTests(const Model& model, const std::vector<BenchMode>& modes, const BenchTests& tests, bool interleaved,
                     const ProgressCallback& progress, const GoOn& go_on, BenchReport* report);

}  // namespace duo
