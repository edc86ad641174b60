// The fingerprint of weights, before a Model owns them.
#pragma once

#include <string>

#include "duo/model.h"

namespace duo {

/// As ModelFingerprint(const Model&).
std::string ModelFingerprint(const Model::Weights& weights);

}  // namespace duo
