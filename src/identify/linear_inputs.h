// Measures the inputs of the matrices of a model's layers on a text. They show where activations have outliers, and
// smoothing (duo/quantize.h) needs them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "duo/model.h"
#include "duo/progress.h"
#include "identify/layer_walk.h"

namespace duo {

/// Magnitudes of one input of a layer, over all tokens.
struct InputMagnitudes {
  std::vector<float> max;  // [dim] largest magnitude of every channel
  double rms = 0;          // root mean square over all channels

  /// Largest magnitude of all channels / rms.
  double outlier() const;
};

struct LayerInputs {
  InputMagnitudes of[kLinearInputs];  // by LinearInput
};

/// Runs `ids` through the model with full attention and measures every layer. Returns [n_layers]. kInvalidArgument if
/// there are no ids or one is not in the vocabulary. kInternal if an input is not finite. kCancelled by the callback.
/// Also returns the errors of LayerWalk.
Result<std::vector<LayerInputs>> MeasureLinearInputs(const Model& model, std::span<const int32_t> ids,
                                                     const WalkOptions& options, const ProgressCallback& progress = {});

}  // namespace duo
