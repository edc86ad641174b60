// Refuses work that would not fit in memory before it begins.
#pragma once

#include <cstdint>

#include "duo/model.h"
#include "duo/result.h"

namespace duo {

/// OK if `needed` bytes, in addition to the weights, fit in `limit`. A limit of 0 is the memory that the backend has
/// available, less the weights that are mapped from files, which must stay cached. kResourceExhausted otherwise. The
/// message has the bytes needed and available, and n_tokens, the length of the texts.
Status CheckFits(const Model& model, int64_t n_tokens, uint64_t needed, uint64_t limit);

}  // namespace duo
