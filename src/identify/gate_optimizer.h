// AdamW on gates with DuoAttention's schedule (arXiv:2410.10819 section 2.2 and its reference code).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace duo {

/// The published defaults.
struct GateSchedule {
  int64_t n_steps = 2000;
  double lr = 0.02;  // peak
  double reg_weight =
      0.05;  // of mean |gate|; where the wanted share is given, the value it begins with: take a small one
  /// Share of the heads that shall become streaming heads, in (0, 1): the penalty is then adapted after every step so
  /// that the mean gate goes to 1 - this. (A fixed penalty that suits one model leaves all gates of another near 1.)
  std::optional<double> target_sparsity = {};
};

/// peak * min(1, max((step + 1) / (n / 5), 0.1), max((n - step) / (n / 5), 0.1)): a trapezoid.
double LearningRate(const GateSchedule& schedule, int64_t step);

/// Where an adapted penalty should begin: far below what any model wants.
inline constexpr double kAdaptedPenaltyBegin = 2e-4;

/// All that decides the next step; copied to save a run. Gates are in [0, 1] between steps.
struct GateState {
  int64_t step = 0;
  double reg_weight = 0;      // where it is adapted, its slow part
  std::vector<double> gates;  // 1 at the start
  std::vector<double> first;  // AdamW's moments
  std::vector<double> second;
};

class GateOptimizer {
 public:
  GateOptimizer(const GateSchedule& schedule, size_t n_gates);
  GateOptimizer(const GateSchedule& schedule, GateState state) : schedule_(schedule), state_(std::move(state)) {}

  /// One step along `gradients` of the distillation loss; adds the penalty's own. Decoupled weight decay is 0.
  void Step(std::span<const double> gradients);

  const GateState& state() const { return state_; }
  double mean_gate() const;
  /// Weight of the mean gate in the next step's loss.
  double penalty() const;

 private:
  /// How far the mean gate is above what is wanted at this step.
  double error() const;

  GateSchedule schedule_;
  GateState state_;
};

}  // namespace duo
