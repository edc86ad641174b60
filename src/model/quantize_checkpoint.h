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

/// SmoothQuant (arXiv:2211.10438, section 4, equation 4): every channel j of what a matrix is given is divided by
/// s[j] = max |x[j]|^alpha / max |w[.][j]|^(1 - alpha), and that column of the matrix multiplied by it, so that neither
/// side has the outliers. The division goes into what makes the channel: the norm before q, k, v and before gate, up;
/// the rows of up before down (silu(gate) * up); the rows of v before o, one s for the heads that share a KV head. Ours
/// is the nearest power of two, which changes no digit of a float: before quantising the model is exactly the same.
struct Smoothing {
  /// Channels' largest magnitudes, 0 = unknown: not scaled.
  struct Layer {
    std::vector<float> attention;  // [hidden], of q, k, v
    std::vector<float> output;     // [n_heads * head_dim], of o
    std::vector<float> mlp;        // [hidden], of gate, up
    std::vector<float> down;       // [intermediate]
  };
  double alpha = 0.5;
  std::vector<Layer> layers;  // empty = no smoothing
};

struct QuantizeReport {
  std::vector<MatrixReport> matrices;  // in the order of the model
  uint64_t bytes_before = 0;           // of all tensors
  uint64_t bytes_after = 0;
  std::vector<Smoothing::Layer> factors;  // s of each layer; empty without smoothing
};

/// kInvalidArgument, with a sentence, where QuantizeCheckpoint would refuse `out`: for callers that have work to do
/// first.
Status CheckQuantizeOut(const std::string& dir, const std::string& out);

/// Writes `out` (made when it is missing): model.safetensors with the matrices of `dir` as int8 or int4
/// (docs/formats.md) and everything else as it is, the tokenizer's files, and last config.json with a
/// quantization_config. Smoothed norms and biases are F32. Holds one matrix at a time. kInvalidArgument: `dir` is
/// quantised already, `out` holds a model or is `dir`, smoothing is of another shape; kCancelled by the callback; else
/// as Model::Open and AtomicFile. After an error `out` has no config.json, so nothing opens half of it.
Result<QuantizeReport> QuantizeCheckpoint(const std::string& dir, WeightType type, const Smoothing& smoothing,
                                          const std::string& out, int n_threads, const ProgressCallback& progress = {});

}  // namespace duo
