// Which model something was measured on, or saved from.
#pragma once

#include <string>

#include "duo/model.h"

namespace duo {

/// 16 hexadecimal digits over the shapes, norms, biases, the positions' frequencies and the beginning of every matrix
/// as it is kept: two checkpoints of one shape, a model and its fine-tune too, differ there, and so do a model with
/// another RoPE scaling and one whose weights are quantised.
std::string ModelFingerprint(const Model::Weights& weights);
std::string ModelFingerprint(const Model& model);

}  // namespace duo
