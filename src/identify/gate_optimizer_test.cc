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

// The first steps of AdamW, computed by hand. With bias-corrected moments the first update is the gradient's sign.
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

// The heads differ in importance: their gradients grow at different rates as a gate falls. For a loss of any scale, the
// penalty must find the strength at which the mean gate is the requested one.
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

// The penalty's controller, computed by hand. In the first half of the run the target of the mean gate is on the line
// from 1 to the requested mean. After that the target is the requested mean.
TEST(GateOptimizer, ThePenaltyFollowsTheMeanGatesDistanceFromItsLine) {
  const GateSchedule s{.n_steps = 100, .lr = 0.1, .reg_weight = 0.05, .target_sparsity = 0.4};
  GateOptimizer optimizer(s, 4);
  EXPECT_DOUBLE_EQ(optimizer.mean_gate(), 1.0);
  EXPECT_NEAR(optimizer.penalty(), 0.05 * std::exp(30 * (1 - (1 - 0.4 / 50))), 1e-12);
  optimizer.Step(std::vector<double>{1, 1, -1, -1});
  const double mean = optimizer.mean_gate();
  EXPECT_NEAR(mean, 1 - 0.01 / 2, 1e-6) << "two gates moved by a tenth of the rate";
  const double error = mean - (1 - 0.4 * 2 / 50);
  EXPECT_NEAR(optimizer.state().reg_weight, 0.05 * std::exp(3 * error), 1e-12);
  EXPECT_NEAR(optimizer.penalty(), optimizer.state().reg_weight * std::exp(30 * error), 1e-12);

  GateState late = optimizer.state();
  late.step = 70;
  late.reg_weight = 1;
  late.gates = {1, 0.6, 0.4, 0.2};
  EXPECT_NEAR(GateOptimizer(s, late).penalty(), std::exp(30 * (0.55 - 0.6)), 1e-12) << "the line has ended";
  late.gates = {1, 1, 1, 1};
  late.reg_weight = 1e6;
  EXPECT_EQ(GateOptimizer(s, late).penalty(), 1e6) << "at most";
  late.gates = {0, 0, 0, 0};
  late.reg_weight = 1e-6;
  GateOptimizer weakest(s, late);
  EXPECT_EQ(weakest.penalty(), 1e-6) << "at least";
  weakest.Step(std::vector<double>{0, 0, 0, 0});
  EXPECT_EQ(weakest.state().reg_weight, 1e-6);
  const GateOptimizer fixed({.n_steps = 100, .lr = 0.1, .reg_weight = 0.05}, 4);
  EXPECT_EQ(fixed.penalty(), 0.05) << "as given, without a target share";
}

TEST(GateOptimizer, ThePenaltyIsSharedByTheGatesThatAreNotZero) {
  const GateSchedule s{.n_steps = 5, .lr = 0.1, .reg_weight = 0.8};
  GateState state = GateOptimizer(s, 2).state();
  state.gates = {0.5, 0.0};
  GateOptimizer optimizer(s, state);
  optimizer.Step(std::vector<double>{-0.1, -0.1});
  // The gradients are -0.1 + 0.8 / 2 and -0.1, so one gate moves down by the full rate and the other up.
  EXPECT_NEAR(optimizer.state().gates[0], 0.4, 1e-6);
  EXPECT_NEAR(optimizer.state().gates[1], 0.1, 1e-6);
  EXPECT_NEAR(optimizer.state().first[0], 0.1 * 0.3, 1e-12);
  EXPECT_NEAR(optimizer.state().second[0], 0.001 * 0.09, 1e-12);
  EXPECT_NEAR(optimizer.state().first[1], 0.1 * -0.1, 1e-12);
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
