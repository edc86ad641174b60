// Which model something was measured on, or saved from.
#pragma once

#include <string>

#include "duo/model.h"

namespace duo {

/// 16 hexadecimal digits over the shapes, norms, biases, the positions' frequencies and eight pages of 4 KiB of every
/// matrix as it is kept, spread evenly from its first byte to its last. Two checkpoints of one shape, a model and its
/// fine-tune too, differ there, and so do a model with another RoPE scaling and one whose weights are quantised. A
/// change of a few rows between the pages is not seen.
std::string ModelFingerprint(const Model::Weights& weights);
std::string ModelFingerprint(const Model& model);

}  // namespace duo
