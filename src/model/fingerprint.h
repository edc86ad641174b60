// Identifies the model that something was measured on or saved from.
#pragma once

#include <string>

#include "duo/model.h"

namespace duo {

/// A hash of 16 hexadecimal digits. It covers the shapes, norms, biases, RoPE frequencies and eight pages of 4 KiB of
/// every matrix. The pages are spread evenly from the first byte of the matrix, as it is stored in memory, to its last.
///
/// Two checkpoints of one shape have different fingerprints. So have a model and its fine-tune, a model with another
/// RoPE scaling, and one with quantised weights. A change of a few rows between the pages is not noticed.
std::string ModelFingerprint(const Model::Weights& weights);
std::string ModelFingerprint(const Model& model);

}  // namespace duo
