// RoPE angles, with the default frequencies and with their scalings.
#pragma once

#include <vector>

#include "checkpoint/hf_config.h"

namespace duo {

/// Angle per position of each pair of dimensions, [head_dim / 2]. It depends on the type of scaling.
/// Default, and dynamic up to the trained length: theta^(-2i/head_dim) (arXiv:2104.09864 section 3.2.2).
/// Linear: the default divided by factor (arXiv:2306.15595).
/// Llama3: low frequencies are divided by factor, high ones are kept. Wavelengths between those of low_freq_factor and
/// high_freq_factor get a smooth blend (Llama 3.1's published rule).
/// Yarn: a blend of default and linear. The blend is a ramp over the dimensions between the corrections for beta_fast
/// and beta_slow (arXiv:2309.00071 section 3.2).
std::vector<double> RopeInvFreq(const RopeConfig& rope, int head_dim);

}  // namespace duo
