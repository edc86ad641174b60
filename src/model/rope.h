// RoPE angles: the default and its scalings.
#pragma once

#include <vector>

#include "checkpoint/hf_config.h"

namespace duo {

/// Angle per position of each pair of dimensions, [head_dim / 2].
/// default and dynamic (up to the trained length): theta^(-2i/head_dim) (arXiv:2104.09864 section 3.2.2).
/// linear: divided by factor (arXiv:2306.15595). llama3: low frequencies divided by factor, a smooth blend between
/// low_freq_factor and high_freq_factor wavelengths (Llama 3.1's published rule). yarn: blend of both by a ramp over
/// dimensions between the corrections for beta_fast and beta_slow (arXiv:2309.00071 section 3.2).
std::vector<double> RopeInvFreq(const RopeConfig& rope, int head_dim);

}  // namespace duo
