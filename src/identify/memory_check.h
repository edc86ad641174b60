// Work that would not fit is refused before it begins.
#pragma once

#include <cstdint>

#include "duo/model.h"
#include "duo/result.h"

namespace duo {

/// Whether `needed` bytes beside the weights fit in `limit` (0 = what the system has free; weights that are mapped from
/// files are kept free for them). kResourceExhausted with the bytes needed and available for texts of n_tokens.
Status CheckFits(const Model& model, int64_t n_tokens, uint64_t needed, uint64_t limit);

}  // namespace duo
