// The error for logits that are NaN or infinite. It names the layer in which they begin.
#pragma once

#include <cstdint>
#include <span>

#include "duo/dtype.h"
#include "duo/result.h"
#include "model/transformer.h"

namespace duo {

/// Returns kInternal for a sequence of `tokens` whose logits are not finite. Runs the last tokens again, without those
/// before them, and checks the states after every layer. The sentence names the first layer whose states are not
/// finite, unless these tokens alone do not cause it. Overwrites the activations of `scratch`. Does not use its cache.
Status NonFiniteLogits(const Model::Weights& weights, Transformer* transformer, const SequenceState& scratch,
                       KvType kv_type, std::span<const int32_t> tokens);

}  // namespace duo
