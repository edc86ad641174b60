// Tests which tokens a sampler may draw, and how often: edge cases of the filters, ties, and penalties of either sign.
#include "duo/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace duo {
namespace {

using Counts = std::map<int32_t, int>;

Counts Draw(const SamplerOptions& options, const std::vector<float>& logits, int n) {
  Sampler sampler(options);
  Counts counts;
  for (int i = 0; i < n; ++i) ++counts[sampler.Sample(logits, {})];
  return counts;
}

std::vector<int32_t> Drawn(const SamplerOptions& options, const std::vector<float>& logits, int n = 4000) {
  std::vector<int32_t> ids;
  for (const auto& entry : Draw(options, logits, n)) ids.push_back(entry.first);
  return ids;
}

std::vector<int32_t> FirstIds(int n) {
  std::vector<int32_t> ids(n);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

// All tokens have the same weight, so the mass of each is exact, and ties go to the lowest ids. The numbers of tokens
// are around those that the sampler sorts at a time.
TEST(SamplerFilters, TopPKeepsItsShareOfEqualTokens) {
  for (const int n : {10, 64, 100, 150, 300}) {
    const std::vector<float> equal(n, 1.5f);
    for (const double p : {0.1, 0.5, 0.9}) {
      const int kept = static_cast<int>(std::ceil(p * n - 1e-9));
      EXPECT_EQ(Drawn({.temperature = 1, .top_p = p, .seed = 3}, equal), FirstIds(kept)) << p << " of " << n;
    }
  }
}

TEST(SamplerFilters, TopKOfEqualTokensKeepsTheLowestIds) {
  const std::vector<float> equal(50, -2.0f);
  for (const int k : {2, 3, 17, 49}) EXPECT_EQ(Drawn({.temperature = 1, .top_k = k}, equal), FirstIds(k));
  EXPECT_EQ(Drawn({.temperature = 1, .top_k = 50}, equal), FirstIds(50));
  EXPECT_EQ(Drawn({.temperature = 1, .top_k = 51}, equal), FirstIds(50));
  EXPECT_EQ(Drawn({.temperature = 1, .top_k = 0}, equal), FirstIds(50));
  EXPECT_EQ(Drawn({.temperature = 1, .top_k = 8, .top_p = 0.5}, equal), FirstIds(4))
      << "a share of the mass that top-k left";
}

// The nucleus of top-p: no token outside is likelier than one inside. Its mass reaches p, and without its last token it
// does not.
TEST(SamplerFilters, TopPIsTheSmallestSetThatReachesTheMass) {
  Rng rng(5);
  for (const int n : {5, 40, 90, 200}) {
    std::vector<float> logits;
    for (int i = 0; i < n; ++i) logits.push_back(static_cast<float>(2 * rng.Uniform()));
    for (const double temperature : {0.7, 1.0, 2.0}) {
      double total = 0;
      std::vector<double> weights;
      for (const float logit : logits) weights.push_back(std::exp(static_cast<double>(logit) / temperature));
      for (const double w : weights) total += w;
      for (const double p : {0.2, 0.6, 0.95}) {
        const std::vector<int32_t> ids = Drawn({.temperature = temperature, .top_p = p, .seed = 1}, logits, 20000);
        const std::set<int32_t> kept(ids.begin(), ids.end());
        double mass = 0, least = HUGE_VAL, likeliest_outside = 0;
        for (int32_t id = 0; id < n; ++id) {
          const double w = weights[id];
          if (kept.contains(id)) {
            mass += w;
            least = std::min(least, w);
          } else {
            likeliest_outside = std::max(likeliest_outside, w);
          }
        }
        SCOPED_TRACE(std::to_string(n) + " tokens, temperature " + std::to_string(temperature) + ", p " +
                     std::to_string(p));
        EXPECT_GE(least, likeliest_outside);
        EXPECT_GE(mass, p * total * (1 - 1e-9));
        EXPECT_LT(mass - least, p * total);
      }
    }
  }
}

TEST(SamplerFilters, MinPIsAShareOfTheLikeliest) {
  const auto of_weights = [](const std::vector<double>& weights, double temperature) {
    std::vector<float> logits;
    for (const double w : weights) logits.push_back(static_cast<float>(3 + temperature * std::log(w)));
    return logits;
  };
  for (const double temperature : {0.5, 1.0, 2.0}) {
    const std::vector<float> logits = of_weights({1, 0.5, 0.3, 0.1}, temperature);
    const auto drawn = [&](double min_p, double top_p) {
      return Drawn({.temperature = temperature, .top_p = top_p, .min_p = min_p, .seed = 2}, logits);
    };
    EXPECT_EQ(drawn(0, 1), FirstIds(4));
    EXPECT_EQ(drawn(0.09, 1), FirstIds(4));
    EXPECT_EQ(drawn(0.12, 1), FirstIds(3));
    EXPECT_EQ(drawn(0.29, 1), FirstIds(3));
    EXPECT_EQ(drawn(0.4, 1), FirstIds(2));
    EXPECT_EQ(drawn(0.6, 1), FirstIds(1));
    // top-p 0.8 of the mass 1.9 needs three tokens. min-p then filters these. Together they always leave at least one.
    EXPECT_EQ(drawn(0.09, 0.8), FirstIds(3));
    EXPECT_EQ(drawn(0.4, 0.8), FirstIds(2));
    EXPECT_EQ(drawn(0.4, 0.3), FirstIds(1));
    EXPECT_EQ(drawn(1, 0.99), FirstIds(1));
  }
}

TEST(SamplerFilters, FrequenciesAreThoseOfWhatIsKept) {
  const std::vector<float> logits = {0.3f, 1.1f, -0.4f, 0.9f, 0.0f};
  const int n = 30000;
  for (const double temperature : {0.5, 2.0}) {
    Counts counts = Draw({.temperature = temperature, .top_k = 3, .seed = 8}, logits, n);
    EXPECT_EQ(counts.size(), 3u);
    double total = 0;
    for (const int32_t id : {0, 1, 3}) total += std::exp(logits[id] / temperature);
    for (const int32_t id : {0, 1, 3}) {
      const double p = std::exp(logits[id] / temperature) / total;
      EXPECT_NEAR(counts[id] / static_cast<double>(n), p, 4 * std::sqrt(p / n)) << id;
    }
  }
}

TEST(SamplerDraws, DependOnSeedAndNumberAlone) {
  const std::vector<float> some = {1, 2, 3, 2, 1}, others(400, 0.5f);
  Sampler a({.temperature = 1, .seed = 6}), b({.temperature = 1, .seed = 6});
  std::set<int32_t> drawn;
  for (int i = 0; i < 300; ++i) {
    (void)a.Sample(some, {});
    (void)b.Sample(others, {});
    const int32_t id = a.Sample(others, {});
    ASSERT_EQ(id, b.Sample(others, {})) << "earlier draws must not matter";
    drawn.insert(id);
  }
  EXPECT_GT(drawn.size(), 100u) << "each draw number gives a new draw";
}

TEST(SamplerPenalties, RepetitionMakesLogitsOfEitherSignSmaller) {
  const auto choice = [](std::vector<float> logits, std::vector<int32_t> history, SamplerOptions options) {
    return Sampler(options).Sample(logits, history);
  };
  const SamplerOptions twice = {.repetition_penalty = 2};
  EXPECT_EQ(choice({3.0f, 2.0f}, {0}, twice), 1) << "3 / 2 < 2";
  EXPECT_EQ(choice({3.0f, 1.4f}, {0}, twice), 0) << "3 / 2 > 1.4";
  EXPECT_EQ(choice({-1.0f, -1.5f}, {0}, twice), 1) << "-1 x 2 < -1.5";
  EXPECT_EQ(choice({-1.0f, -2.1f}, {0}, twice), 0) << "-1 x 2 > -2.1";
  EXPECT_EQ(choice({0.1f, 0.0f, -1.0f}, {0, 1}, twice), 0);
  EXPECT_EQ(choice({1.5f, 4.0f}, {1, 1, 1}, twice), 1) << "penalised once, however often it occurred";
  EXPECT_EQ(choice({1.0f, 0.6f}, {1}, {.repetition_penalty = 0.5}), 1) << "below 1 it is a reward";
  EXPECT_EQ(choice({3.0f, 2.0f}, {0}, {.repetition_penalty = 2, .repetition_window = 1}), 1);
  EXPECT_EQ(choice({3.0f, 2.0f}, {0, 1}, {.repetition_penalty = 2, .repetition_window = 1}), 0);
  EXPECT_EQ(choice({3.0f, 2.0f}, {0, 1, 1}, {.repetition_penalty = 2, .repetition_window = 2}), 0);
  EXPECT_EQ(choice({3.0f, 2.0f}, {0}, {.repetition_penalty = 2, .repetition_window = 100}), 1);
  EXPECT_EQ(choice({3.0f, 2.0f}, {}, twice), 0);
  EXPECT_EQ(choice({3.0f, 2.0f}, {2, 0, 700, -1}, twice), 1) << "ids that the model does not have are skipped";
}

TEST(SamplerPenalties, ChangeWhatIsDrawnAndNotOnlyWhatIsBest) {
  const std::vector<float> logits = {2.0f, 1.0f, 0.5f};
  const SamplerOptions options = {.temperature = 1, .repetition_penalty = 4, .seed = 12};
  Sampler sampler(options);
  const std::vector<int32_t> history = {0};
  Counts counts;
  const int n = 30000;
  for (int i = 0; i < n; ++i) ++counts[sampler.Sample(logits, history)];
  const double total = std::exp(0.5) + std::exp(1.0) + std::exp(0.5);
  EXPECT_NEAR(counts[0] / static_cast<double>(n), std::exp(0.5) / total, 0.012);
  EXPECT_NEAR(counts[1] / static_cast<double>(n), std::exp(1.0) / total, 0.012);
}

TEST(SamplerPenalties, CountEachChoice) {
  // The presence penalty subtracts 0.5 once; the frequency penalty subtracts 0.3 each time.
  Sampler both({.frequency_penalty = 0.3, .presence_penalty = 0.5});
  const std::vector<float> logits = {3.0f, 2.3f, 0.0f};
  std::string chosen;
  for (int i = 0; i < 6; ++i) chosen += std::to_string(both.Sample(logits, {}));
  // 3, 2.3 | 2.2, 2.3 | 2.2, 1.5 | 1.9, 1.5 | 1.6, 1.5 | 1.3, 1.5
  EXPECT_EQ(chosen, "010001");
  Sampler reward({.presence_penalty = -1});
  const std::vector<float> close = {1.0f, 0.9f};
  EXPECT_EQ(reward.Sample(close, {}), 0);
  EXPECT_EQ(reward.Sample(std::vector<float>{1.0f, 1.9f}, {}), 0) << "a negative penalty is a reward";
  Sampler of_a_smaller_model({.frequency_penalty = 1});
  EXPECT_EQ(of_a_smaller_model.Sample(logits, {}), 0);
  EXPECT_EQ(of_a_smaller_model.Sample(std::vector<float>{5.0f}, {}), 0);
}

TEST(SamplerPenalties, BiasAddsToWhatIsThere) {
  const std::vector<float> logits = {2.0f, 1.0f};
  EXPECT_EQ(Sampler({.bias = {{1, 1.5f}}}).Sample(logits, {}), 1);
  EXPECT_EQ(Sampler({.bias = {{1, 0.5f}}}).Sample(logits, {}), 0);
  EXPECT_EQ(Sampler({.bias = {{0, -0.5f}, {2, 50.0f}}}).Sample(logits, {}), 0) << "there is no token 2";
  EXPECT_EQ(Sampler({.repetition_penalty = 4, .bias = {{0, 1.0f}}}).Sample(logits, std::vector<int32_t>{0}), 1)
      << "(2 + 1) / 4";
}

TEST(SamplerOptions, EveryRangeIncludesItsEnds) {
  const auto ok = [](const SamplerOptions& options) { return CheckSamplerOptions(options).ok(); };
  EXPECT_TRUE(ok({.temperature = 100, .top_p = 1, .min_p = 1, .repetition_penalty = 100}));
  EXPECT_TRUE(ok({.temperature = 0, .top_k = 1, .top_p = 1e-9, .min_p = 0, .repetition_penalty = 1e-9}));
  EXPECT_TRUE(ok({.repetition_window = 0, .frequency_penalty = 2, .presence_penalty = 2}));
  EXPECT_TRUE(ok({.repetition_window = 1, .frequency_penalty = -2, .presence_penalty = -2}));
  EXPECT_TRUE(ok({.bias = {{0, 100.0f}, {7, -100.0f}}}));
  const auto refused = [](const SamplerOptions& options, const std::string& name) {
    const Status status = CheckSamplerOptions(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(status.subject(), name);
    EXPECT_EQ(status.message().rfind(name + " is ", 0), 0u) << status.message();
  };
  refused({.temperature = 100.1}, "temperature");
  refused({.top_p = 1.001}, "top_p");
  refused({.top_p = -0.1}, "top_p");
  refused({.top_p = NAN}, "top_p");
  refused({.min_p = -0.001}, "min_p");
  refused({.min_p = 1.001}, "min_p");
  refused({.min_p = NAN}, "min_p");
  refused({.repetition_penalty = 100.1}, "repetition_penalty");
  refused({.repetition_penalty = -1}, "repetition_penalty");
  refused({.repetition_penalty = NAN}, "repetition_penalty");
  refused({.repetition_window = -1}, "repetition_window");
  refused({.frequency_penalty = -2.1}, "frequency_penalty");
  refused({.frequency_penalty = NAN}, "frequency_penalty");
  refused({.presence_penalty = 2.1}, "presence_penalty");
  refused({.presence_penalty = -2.1}, "presence_penalty");
  refused({.bias = {{0, -100.5f}}}, "bias");
  refused({.bias = {{0, NAN}}}, "bias");
}

}  // namespace
}  // namespace duo
