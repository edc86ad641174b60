// Results of `duo bench`, printed as Markdown, CSV or JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "duo/model.h"

namespace duo::cli {

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
  std::optional<double> gemm_f32_gflop_s;  // only with --compute f32; then the ceiling of the products
  std::optional<double> gemm_int8_gop_s;   // only with --compute int8; then the ceiling of the products
  uint64_t peak_rss_bytes = 0;
  uint64_t base_rss_bytes = 0;  // of the process before the model was opened
  bool on_device = false;
  uint64_t available_bytes = 0;  // of the backend's memory before the model was opened
  uint64_t device_bytes = 0;     // max of them taken since then, on a device
  uint64_t plan_bytes = 0;       // planned weights, KV and activations of the sessions that existed at the same time
  std::vector<BenchRow> rows;

  double gemm_ceiling() const { return gemm_int8_gop_s.value_or(gemm_f32_gflop_s.value_or(gemm_bf16_gflop_s)); }
};

/// The whole report. Every row has the keys of BenchRow and tokens_per_s.
Json BenchJson(const BenchReport& report);
std::string BenchCsv(const BenchReport& report);
std::string BenchMarkdown(const BenchReport& report);

}  // namespace duo::cli
