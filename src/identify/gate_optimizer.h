// Learns gates with AdamW and DuoAttention's schedule (arXiv:2410.10819 section 2.2 and its reference code).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace duo {

/// The defaults are the published ones.
struct GateSchedule {
  int64_t n_steps = 2000;
  double lr = 0.02;  // peak
  /// Weight of mean |gate| in the loss. With a target_sparsity it is only the first value, and should be small.
  double reg_weight = 0.05;
  /// Share of the heads that become streaming heads, in (0, 1). If it is set, the penalty is adapted after every step
  /// so that the mean gate approaches 1 - target_sparsity. (A fixed penalty that suits one model leaves all gates of
  /// another near 1.)
  std::optional<double> target_sparsity = {};
};

/// A trapezoid: peak * min(1, max((step + 1) / (n / 5), 0.1), max((n - step) / (n / 5), 0.1)).
double LearningRate(const GateSchedule& schedule, int64_t step);

/// A good first value for an adapted penalty. It is far below the penalty that any model needs.
inline constexpr double kAdaptedPenaltyBegin = 2e-4;

/// Everything that the next step depends on. It is copied to save a run. Gates are in [0, 1] between steps.
struct GateState {
  int64_t step = 0;
  double reg_weight = 0;      // the penalty, or its integral part if the penalty is adapted
  std::vector<double> gates;  // 1 at the start
  std::vector<double> first;  // AdamW's moments
  std::vector<double> second;
};

class GateOptimizer {
 public:
  GateOptimizer(const GateSchedule& schedule, size_t n_gates);
  GateOptimizer(const GateSchedule& schedule, GateState state) : schedule_(schedule), state_(std::move(state)) {}

  /// Makes one step. `gradients` are those of the distillation loss; the penalty's gradient is added here. Decoupled
  /// weight decay is 0.
  void Step(std::span<const double> gradients);

  const GateState& state() const { return state_; }
  double mean_gate() const;
  /// Weight of the mean gate in the next step's loss.
  double penalty() const;

 private:
  /// Distance of the mean gate above its target at this step.
  double error() const;

  GateSchedule schedule_;
  GateState state_;
};

}  // namespace duo
