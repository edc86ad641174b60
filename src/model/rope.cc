#include "model/rope.h"

#include <algorithm>
#include <cmath>

namespace duo {
namespace {

constexpr double kTwoPi = 6.283185307179586476925;

double Llama3Angle(const RopeConfig& rope, double angle) {
  const auto trained = static_cast<double>(rope.original_max_position_embeddings);
  const double wavelength = kTwoPi / angle;
  const double low_wavelength = trained / rope.low_freq_factor;
  const double high_wavelength = trained / rope.high_freq_factor;
  if (wavelength < high_wavelength) return angle;
  if (wavelength > low_wavelength) return angle / rope.factor;
  const double smooth = (trained / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * angle / rope.factor + smooth * angle;
}

/// The dimension (as a real number) whose angle makes `turns` full turns over the trained length.
double YarnCorrectionDim(const RopeConfig& rope, int head_dim, double turns) {
  const auto trained = static_cast<double>(rope.original_max_position_embeddings);
  return head_dim * std::log(trained / (turns * kTwoPi)) / (2 * std::log(rope.theta));
}

void ApplyYarn(const RopeConfig& rope, int head_dim, std::vector<double>* angles) {
  double low = YarnCorrectionDim(rope, head_dim, rope.beta_fast);
  double high = YarnCorrectionDim(rope, head_dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;  // the published rule avoids a division by zero in this way
  for (size_t i = 0; i < angles->size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    double& angle = (*angles)[i];
    angle = angle / rope.factor * ramp + angle * (1 - ramp);
  }
}

}  // namespace

std::vector<double> RopeInvFreq(const RopeConfig& rope, int head_dim) {
  std::vector<double> angles;
  for (int i = 0; i < head_dim / 2; ++i) angles.push_back(std::pow(rope.theta, -2.0 * i / head_dim));
  switch (rope.type) {
    case RopeType::kDefault:
    case RopeType::kDynamic: break;
    case RopeType::kLinear:
      for (double& angle : angles) angle /= rope.factor;
      break;
    case RopeType::kLlama3:
      for (double& angle : angles) angle = Llama3Angle(rope, angle);
      break;
    case RopeType::kYarn: ApplyYarn(rope, head_dim, &angles); break;
  }
  return angles;
}

}  // namespace duo
