// Makes a checkpoint with quantised matrices from a plain one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "duo/dtype.h"
#include "duo/progress.h"
#include "duo/result.h"

namespace duo {

/// The change that quantising made to one matrix.
struct MatrixReport {
  std::string name;
  WeightType type = WeightType::kInt8;
  double error = 0;    // RMS of the change / RMS of the weights
  double outlier = 0;  // largest magnitude of a weight / RMS of the weights
};

/// SmoothQuant (arXiv:2211.10438, section 4). Every channel j of a matrix's input is divided by s[j], and column j of
/// the matrix is multiplied by s[j], so that neither side has outliers. Equation 4 of the paper is
///   s[j] = max |x[j]|^alpha / max |w[.][j]|^(1 - alpha).
/// We round s[j] to the nearest power of two. That changes no digit of a float, so before quantising the model is
/// exactly the same.
///
/// The operation that produces the channel does the division. For q, k, v, gate and up it is the norm before them. For
/// down it is the rows of up, because the input is silu(gate) * up. For o it is the rows of v, and the heads that share
/// a KV head share one s.
struct Smoothing {
  /// Largest magnitude of each channel. 0 = unknown; such a channel is not scaled.
  struct Layer {
    std::vector<float> attention;  // [hidden], input of q, k, v
    std::vector<float> output;     // [n_heads * head_dim], input of o
    std::vector<float> mlp;        // [hidden], input of gate, up
    std::vector<float> down;       // [intermediate], input of down
  };
  double alpha = 0.5;
  std::vector<Layer> layers;  // empty = no smoothing
};

struct QuantizeReport {
  std::vector<MatrixReport> matrices;  // in the order of the model
  uint64_t bytes_before = 0;           // size of all tensors
  uint64_t bytes_after = 0;
  std::vector<Smoothing::Layer> factors;  // s of each layer; empty without smoothing
};

/// kInvalidArgument if QuantizeCheckpoint would refuse `out`. Callers with long work to do check this first.
Status CheckQuantizeOut(const std::string& dir, const std::string& out);

/// Writes a quantised checkpoint into the directory `out`, which is created if it does not exist:
/// - model.safetensors with the matrices of `dir` as int8 or int4 (docs/formats.md). All other tensors are copied,
///   except that smoothed norms and biases are F32.
/// - The tokenizer's files.
/// - config.json with a quantization_config. It is written last: after an error `out` has no config.json, so that
///   nobody can open half a checkpoint.
/// Holds one matrix in memory at a time. kInvalidArgument: `dir` is already quantised, `out` holds a model or is `dir`,
/// or the smoothing has another shape. kCancelled by the callback. Other errors: kIo, and those of Model::Open.
Result<QuantizeReport> QuantizeCheckpoint(const std::string& dir, WeightType type, const Smoothing& smoothing,
                                          const std::string& out, int n_threads, const ProgressCallback& progress = {});

}  // namespace duo
