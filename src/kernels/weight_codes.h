// Weights as codes: int8 per output channel, int4 per group of 32 inputs. docs/formats.md has the layout.
#pragma once

#include <cstdint>

#include "base/matrix_view.h"

namespace duo {

/// out[i] = nearest to x[i] / *scale, in -127..127; *scale = max |x| / 127 (0 for a row of zeros). Of weights' rows and
/// of tokens' activations alike (W8A8: LLM.int8(), arXiv:2208.07339 section 2; SmoothQuant, arXiv:2211.10438). A NaN or
/// an infinity makes *scale NaN.
void QuantizeInt8(const float* x, int64_t n, int8_t* out, float* scale);

/// Writes rows [0, n_rows) of w [n_rows <= 16, n_in], further ones as zeros, as one block of Int4BlockBytes(n_in): a
/// weight is (code - 8) * scale, one bf16 scale per row and 32 inputs, chosen among a few below max |w| / 8 for the
/// least squared error. Inputs beyond n_in count as zero.
void QuantizeInt4Block(const float* w, int64_t n_rows, int64_t n_in, uint8_t* block);

}  // namespace duo
