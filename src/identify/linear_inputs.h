// What the matrices of a model's layers are multiplied with, on a text: where activations have outliers, and what
// smoothing (model/quantize_checkpoint.h) starts from.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "duo/model.h"
#include "duo/progress.h"
#include "identify/layer_walk.h"

namespace duo {

/// One input of a layer, over all tokens.
struct InputMagnitudes {
  std::vector<float> most;  // [dim] largest magnitude of every channel
  double rms = 0;           // root of the mean square of all channels

  /// Largest magnitude of all over rms.
  double outlier() const;
};

struct LayerInputs {
  InputMagnitudes of[kLinearInputs];  // by LinearInput
};

/// Runs `ids` through the model with full attention and looks at every layer. [n_layers]. kInvalidArgument: no ids, or
/// one that is not in the vocabulary; kCancelled by the callback; errors of LayerWalk.
Result<std::vector<LayerInputs>> MeasureLinearInputs(const Model& model, std::span<const int32_t> ids,
                                                     const WalkOptions& options, const ProgressCallback& progress = {});

}  // namespace duo
