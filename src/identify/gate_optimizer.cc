#include "identify/gate_optimizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace duo {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
// A proportional-integral controller sets the logarithm of the penalty. Its error is the distance of the mean gate from
// a line that falls from 1 to the target mean over the first half of the run. The line is needed because a penalty that
// is too strong at first pulls all gates down together, and AdamW's second moments remember that.
// Tested on synthetic losses with noise, with scales of 0.001 to 30, 250 and 2000 steps, and shares of 0.25 to 0.75:
// the mean gate ended within 0.006 of the target.
constexpr double kRampShare = 0.5, kProportionalGain = 30, kIntegralGain = 300;
constexpr double kMinPenalty = 1e-6, kMaxPenalty = 1e6;

}  // namespace

double LearningRate(const GateSchedule& schedule, int64_t step) {
  const auto n = static_cast<double>(schedule.n_steps), ramp = n / 5, at = static_cast<double>(step);
  return schedule.lr * std::min({1.0, std::max((at + 1) / ramp, 0.1), std::max((n - at) / ramp, 0.1)});
}

GateOptimizer::GateOptimizer(const GateSchedule& schedule, size_t n_gates) : schedule_(schedule) {
  state_.reg_weight = schedule.reg_weight;
  state_.gates.assign(n_gates, 1.0);
  state_.first.assign(n_gates, 0.0);
  state_.second.assign(n_gates, 0.0);
}

double GateOptimizer::mean_gate() const {
  return std::accumulate(state_.gates.begin(), state_.gates.end(), 0.0) / static_cast<double>(state_.gates.size());
}

double GateOptimizer::error() const {
  const double ramp = kRampShare * static_cast<double>(schedule_.n_steps);
  return mean_gate() - (1 - *schedule_.target_sparsity * std::min(1.0, static_cast<double>(state_.step + 1) / ramp));
}

double GateOptimizer::penalty() const {
  if (!schedule_.target_sparsity) return state_.reg_weight;
  return std::clamp(state_.reg_weight * std::exp(kProportionalGain * error()), kMinPenalty, kMaxPenalty);
}

void GateOptimizer::Step(std::span<const double> gradients) {
  const double lr = LearningRate(schedule_, state_.step), reg_weight = penalty();
  const auto t = static_cast<double>(++state_.step), n = static_cast<double>(state_.gates.size());
  const double correct1 = 1 - std::pow(kBeta1, t), correct2 = 1 - std::pow(kBeta2, t);
  for (size_t i = 0; i < state_.gates.size(); ++i) {
    // |gate| has gradient 1 above 0, and by convention 0 at 0.
    const double gradient = gradients[i] + (state_.gates[i] > 0 ? reg_weight / n : 0.0);
    state_.first[i] = kBeta1 * state_.first[i] + (1 - kBeta1) * gradient;
    state_.second[i] = kBeta2 * state_.second[i] + (1 - kBeta2) * gradient * gradient;
    const double update = state_.first[i] / correct1 / (std::sqrt(state_.second[i] / correct2) + kEpsilon);
    state_.gates[i] = std::clamp(state_.gates[i] - lr * update, 0.0, 1.0);
  }
  if (!schedule_.target_sparsity) return;
  state_.reg_weight *= std::exp(kIntegralGain / static_cast<double>(schedule_.n_steps) * error());
  state_.reg_weight = std::clamp(state_.reg_weight, kMinPenalty, kMaxPenalty);
}

}  // namespace duo
