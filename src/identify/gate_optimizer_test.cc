#include "identify/gate_optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace duo {
namespace {

TEST(LearningRate, IsATrapezoid) {
  const GateSchedule s{.n_steps = 100, .lr = 1.0};
  EXPECT_DOUBLE_EQ(LearningRate(s, 0), 0.1);  // the floor
  EXPECT_DOUBLE_EQ(LearningRate(s, 9), 0.5);
  EXPECT_DOUBLE_EQ(LearningRate(s, 19), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(s, 80), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(s, 90), 0.5);
  EXPECT_DOUBLE_EQ(LearningRate(s, 99), 0.1);
}

// The first steps of AdamW by hand: moments corrected for their start make the first update the gradient's sign.
TEST(GateOptimizer, StepsAsAdamWDoes) {
  const GateSchedule s{.n_steps = 5, .lr = 0.1, .reg_weight = 0};
  GateOptimizer optimizer(s, 2);
  optimizer.Step(std::vector<double>{0.5, -0.25});
  EXPECT_NEAR(optimizer.state().gates[0], 1 - 0.1, 1e-8);
  EXPECT_EQ(optimizer.state().gates[1], 1.0);  // clamped
  optimizer.Step(std::vector<double>{0.1, 0.25});
  const double first = (0.9 * 0.05 + 0.1 * 0.1) / (1 - 0.81),
               second = (0.999 * 0.00025 + 0.001 * 0.01) / (1 - 0.998001);
  EXPECT_NEAR(optimizer.state().gates[0], 0.9 - 0.1 * first / (std::sqrt(second) + 1e-8), 1e-8);
  EXPECT_EQ(optimizer.state().step, 2);
}

TEST(GateOptimizer, StepsAreAsLongAsTheScheduleSays) {
  GateOptimizer optimizer({.n_steps = 100, .lr = 0.1, .reg_weight = 0}, 1);
  optimizer.Step(std::vector<double>{0.5});
  EXPECT_NEAR(optimizer.state().gates[0], 1 - 0.1 * 0.1, 1e-8);  // the floor of the ramp
}

TEST(GateOptimizer, ThePenaltyAlonePullsGatesToZeroAndNoFurther) {
  GateOptimizer optimizer({.n_steps = 200, .lr = 0.02, .reg_weight = 0.05}, 3);
  for (int i = 0; i < 200; ++i) optimizer.Step(std::vector<double>{0, 0, 0});
  for (const double gate : optimizer.state().gates) EXPECT_EQ(gate, 0.0);
}

// Heads that matter more or less, as slopes that grow when a gate falls: whatever the scale of the loss, the penalty
// finds the strength at which the mean gate is what was asked for.
TEST(GateOptimizer, ReachesTheWantedShareForLossesOfAnyScale) {
  for (const double scale : {0.01, 1.0, 30.0}) {
    for (const double target : {0.25, 0.5, 0.75}) {
      GateOptimizer optimizer(
          {.n_steps = 400, .lr = 0.02, .reg_weight = kAdaptedPenaltyBegin, .target_sparsity = target}, 40);
      for (int i = 0; i < 400; ++i) {
        std::vector<double> gradients;
        for (size_t g = 0; g < 40; ++g) {
          const double importance = scale * std::pow(static_cast<double>(g + 1) / 40, 4);
          gradients.push_back(-importance * (1 - optimizer.state().gates[g]) / 40);
        }
        optimizer.Step(gradients);
      }
      EXPECT_NEAR(optimizer.mean_gate(), 1 - target, 0.05) << scale << " " << target;
      const std::vector<double>& gates = optimizer.state().gates;
      EXPECT_GT(gates.back() - gates.front(), 0.5) << scale << " " << target;
    }
  }
}

TEST(GateOptimizer, AStateGoesOnAsIfItHadNotStopped) {
  const GateSchedule s{.n_steps = 50, .lr = 0.02, .reg_weight = 0.05, .target_sparsity = 0.5};
  const std::vector<double> gradients = {-0.01, 0.02, -0.003};
  GateOptimizer whole(s, 3), first(s, 3);
  for (int i = 0; i < 50; ++i) whole.Step(gradients);
  for (int i = 0; i < 20; ++i) first.Step(gradients);
  GateOptimizer second(s, first.state());
  for (int i = 0; i < 30; ++i) second.Step(gradients);
  EXPECT_EQ(whole.state().gates, second.state().gates);
  EXPECT_EQ(whole.state().reg_weight, second.state().reg_weight);
}

}  // namespace
}  // namespace duo
