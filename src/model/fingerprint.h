// Which model something was measured on.
#pragma once

#include <string>

#include "duo/model.h"

namespace duo {

/// 16 hexadecimal digits over the beginning of every matrix and the positions' frequencies: two checkpoints of one
/// shape, a model and its fine-tune too, differ there, and so does a model with another RoPE scaling.
std::string ModelFingerprint(const Model& model);

}  // namespace duo
