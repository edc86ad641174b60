// Weights as codes: int8 with a scale per output channel, int4 with a scale per group of 32 inputs. docs/formats.md has
// the layout.
#pragma once

#include <cstdint>

#include "base/matrix_view.h"

namespace duo {

/// *scale = max |x| / 127 (0 for a row of zeros), and out[i] is the integer in -127..127 nearest to x[i] / *scale.
/// Used for rows of weights and for the activations of a token (W8A8: LLM.int8(), arXiv:2208.07339 section 2;
/// SmoothQuant, arXiv:2211.10438). A NaN or an infinity makes *scale NaN.
void QuantizeInt8(const float* x, int64_t n, int8_t* out, float* scale);

/// Writes w [n_rows, n_in], n_rows <= 16, as one block of Int4BlockBytes(n_in). Missing rows, and inputs beyond n_in,
/// count as zero. A weight is (code - 8) * scale, with one bf16 scale per row and 32 inputs. The scale is chosen among
/// a few values near max |w| / 8 for the smallest squared error.
void QuantizeInt4Block(const float* w, int64_t n_rows, int64_t n_in, uint8_t* block);

}  // namespace duo
