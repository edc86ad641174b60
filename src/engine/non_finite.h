// The error when a model's logits are NaN or infinite: one sentence, with the layer in which they begin.
#pragma once

#include <cstdint>
#include <span>

#include "duo/dtype.h"
#include "duo/result.h"
#include "model/transformer.h"

namespace duo {

/// The error of a sequence of `tokens` whose logits are not finite: kInternal. Runs the last tokens once more, without
/// what stood before them, and looks at the states after every layer; the sentence names the first layer whose states
/// are not finite, unless these tokens alone do not show it. Overwrites the activations of `scratch`; its cache is not
/// used.
Status NonFiniteLogits(const Model::Weights& weights, Transformer* transformer, const SequenceState& scratch,
                       KvType kv_type, std::span<const int32_t> tokens);

}  // namespace duo
