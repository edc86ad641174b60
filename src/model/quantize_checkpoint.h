// A checkpoint with quantised matrices made from a plain one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "duo/dtype.h"
#include "duo/progress.h"
#include "duo/result.h"

namespace duo {

/// What quantising did to one matrix.
struct MatrixReport {
  std::string name;
  WeightType type = WeightType::kInt8;
  double error = 0;    // root mean square of the change over that of the weights
  double outlier = 0;  // largest magnitude of a weight over their root mean square
};

struct QuantizeReport {
  std::vector<MatrixReport> matrices;  // in the order of the model
  uint64_t bytes_before = 0;           // of all tensors
  uint64_t bytes_after = 0;
};

/// Writes `out` (made when it is missing): model.safetensors with the matrices of `dir` as int8 or int4
/// (docs/formats.md) and everything else as it is, the tokenizer's files, and last config.json with a
/// quantization_config. Holds one matrix at a time. kInvalidArgument: `dir` is quantised already, `out` holds a model
/// or is `dir`; kCancelled by the callback; else as Model::Open and AtomicFile. After an error `out` has no
/// config.json, so nothing opens half of it.
Result<QuantizeReport> QuantizeCheckpoint(const std::string& dir, WeightType type, const std::string& out,
                                          int n_threads, const ProgressCallback& progress = {});

}  // namespace duo
