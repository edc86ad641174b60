#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "duo/sampler.h"
#include "engine/log_probs.h"
#include "engine/stop_matcher.h"

namespace duo {
namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, 3.0f, -5.0f};

std::map<int32_t, int> Draw(const SamplerOptions& options, int n) {
  Sampler sampler(options);
  std::map<int32_t, int> counts;
  for (int i = 0; i < n; ++i) ++counts[sampler.Sample(kLogits, {})];
  return counts;
}

TEST(Sampler, GreedyTakesTheLowestIdOfTheBest) {
  Sampler sampler({});
  EXPECT_EQ(sampler.Sample(kLogits, {}), 1);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const int n = 40000;
  auto counts = Draw({.temperature = 1, .seed = 4}, n);
  double total = 0;
  for (const float logit : kLogits) total += std::exp(logit);
  for (int32_t id = 0; id < 5; ++id) {
    const double p = std::exp(kLogits[id]) / total;
    EXPECT_NEAR(counts[id] / static_cast<double>(n), p, 4 * std::sqrt(p / n) + 1e-4) << id;
  }
}

TEST(Sampler, PenaltiesThatOverflowKeepTheOrder) {
  // 3e38 / 0.001 would be infinite, and the weight of every token NaN.
  SamplerOptions options{.temperature = 1, .repetition_penalty = 0.001};
  const std::vector<float> logits = {3e38f, 1.0f, -3e38f};
  for (const double temperature : {0.0, 1.0}) {
    for (const double top_p : {1.0, 0.5}) {
      options.temperature = temperature;
      options.top_p = top_p;
      EXPECT_EQ(Sampler(options).Sample(logits, std::vector<int32_t>{0, 2}), 0) << temperature << " " << top_p;
    }
  }
}

TEST(Sampler, LogitsAreFinite) {
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature});
    EXPECT_DEATH(sampler.Sample(std::vector<float>{1.0f, NAN, 2.0f}, {}), "finite");
    EXPECT_DEATH(sampler.Sample(std::vector<float>{NAN, NAN}, {}), "finite");
    EXPECT_DEATH(sampler.Sample(std::vector<float>{1.0f, INFINITY}, {}), "finite");
  }
}

TEST(Sampler, TemperatureSharpens) {
  auto counts = Draw({.temperature = 0.1, .seed = 4}, 2000);
  EXPECT_EQ(counts[1] + counts[3], 2000);
  EXPECT_GT(counts[1], 800);
  EXPECT_GT(counts[3], 800);
}

TEST(Sampler, TopKTopPMinPKeepTheLikeliest) {
  auto ids = [](const SamplerOptions& options) {
    std::string list;
    for (const auto& entry : Draw(options, 3000)) list += std::to_string(entry.first);
    return list;
  };
  EXPECT_EQ(ids({.temperature = 1, .top_k = 1}), "1");
  EXPECT_EQ(ids({.temperature = 1, .top_k = 3}), "123");
  EXPECT_EQ(ids({.temperature = 1, .top_p = 0.5}), "13");
  EXPECT_EQ(ids({.temperature = 1, .top_p = 0.01}), "1");
  EXPECT_EQ(ids({.temperature = 1, .min_p = 0.3}), "123");
  EXPECT_EQ(ids({.temperature = 1, .min_p = 1}), "13");
  EXPECT_EQ(ids({.temperature = 1, .top_k = 100}), ids({.temperature = 1}));
}

TEST(Sampler, RepetitionPenaltyLooksAtTheWindow) {
  const std::vector<int32_t> history = {3, 1, 0, 0};
  EXPECT_EQ(Sampler({.repetition_penalty = 2}).Sample(kLogits, history), 2);
  EXPECT_EQ(Sampler({.repetition_penalty = 2, .repetition_window = 3}).Sample(kLogits, history), 3);
  EXPECT_EQ(Sampler({.repetition_penalty = 2, .repetition_window = 2}).Sample(kLogits, history), 1);
}

TEST(Sampler, PenaltiesCountWhatWasChosen) {
  Sampler presence({.presence_penalty = 2});
  EXPECT_EQ(presence.Sample(kLogits, {}), 1);
  EXPECT_EQ(presence.Sample(kLogits, {}), 3);
  EXPECT_EQ(presence.Sample(kLogits, {}), 2);  // 3 - 2, 2, 3 - 2
  EXPECT_EQ(presence.Sample(kLogits, {}), 0) << "all are 1 now, so the lowest id wins";
  Sampler frequency({.frequency_penalty = 0.75});
  std::string chosen;
  for (int i = 0; i < 8; ++i) chosen += std::to_string(frequency.Sample(kLogits, {}));
  EXPECT_EQ(chosen, "13132132");  // 3 and 3 fall by 0.75 with each choice, past 2
  Sampler history_does_not_count({.presence_penalty = 2});
  EXPECT_EQ(history_does_not_count.Sample(kLogits, std::vector<int32_t>{1, 1, 1}), 1);
}

TEST(Sampler, BiasIsAdded) {
  EXPECT_EQ(Sampler({.bias = {{4, 100.0f}}}).Sample(kLogits, {}), 4);
  EXPECT_EQ(Sampler({.bias = {{1, -100.0f}, {3, -100.0f}}}).Sample(kLogits, {}), 2);
  EXPECT_EQ(Sampler({.bias = {{700, 100.0f}}}).Sample(kLogits, {}), 1) << "no such token";
}

TEST(LogProbs, AreTheLogSoftmax) {
  double total = 0;
  for (const float logit : kLogits) total += std::exp(static_cast<double>(logit));
  const LogProbs got = LogProbsOf(kLogits, 2, 3);
  EXPECT_EQ(got.chosen.id, 2);
  EXPECT_NEAR(got.chosen.log_prob, 2 - std::log(total), 1e-12);
  ASSERT_EQ(got.top.size(), 3u);
  EXPECT_EQ(got.top[0].id, 1);
  EXPECT_EQ(got.top[1].id, 3);
  EXPECT_EQ(got.top[2].id, 2);
  EXPECT_EQ(got.top[2].log_prob, got.chosen.log_prob);
  EXPECT_TRUE(LogProbsOf(kLogits, 0, 0).top.empty());
  EXPECT_EQ(LogProbsOf(kLogits, 0, 50).top.size(), kLogits.size());
}

TEST(Sampler, SameSeedSameDraws) {
  Sampler a({.temperature = 1, .seed = 9}), b({.temperature = 1, .seed = 9}), c({.temperature = 1, .seed = 10});
  int differences = 0;
  for (int i = 0; i < 200; ++i) {
    const int32_t id = a.Sample(kLogits, {});
    EXPECT_EQ(id, b.Sample(kLogits, {}));
    differences += id != c.Sample(kLogits, {});
  }
  EXPECT_GT(differences, 0);
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  EXPECT_TRUE(CheckSamplerOptions({}).ok());
  const std::pair<SamplerOptions, const char*> wrong[] = {
      {{.temperature = -1}, "temperature"},
      {{.temperature = NAN}, "temperature"},
      {{.top_k = -1}, "top_k"},
      {{.top_p = 0}, "top_p"},
      {{.min_p = 2}, "min_p"},
      {{.frequency_penalty = 2.1}, "frequency_penalty"},
      {{.presence_penalty = NAN}, "presence_penalty"},
      {{.bias = {{-1, 0.0f}}}, "bias"},
      {{.bias = {{1, 101.0f}}}, "bias"},
      {{.repetition_penalty = 0}, "repetition_penalty"},
  };
  for (const auto& [options, name] : wrong) {
    const Status status = CheckSamplerOptions(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(status.subject(), name);
    EXPECT_EQ(status.message().rfind(std::string(name) + " is ", 0), 0u) << status.message();
  }
}

/// Feeds `text` in pieces of every size and checks the output.
void CheckStops(const std::vector<std::string>& stops, const std::string& text, const std::string& expected,
                bool stopped) {
  for (size_t size = 1; size <= text.size(); ++size) {
    StopMatcher matcher(stops);
    std::string out;
    for (size_t at = 0; at < text.size(); at += size) {
      out += matcher.Push(text.substr(at, size));
      EXPECT_EQ(expected.rfind(out, 0), 0u) << "text of a stop string was shown: " << out;
    }
    if (!matcher.stopped()) out += matcher.Flush();
    EXPECT_EQ(out, expected) << "pieces of " << size;
    EXPECT_EQ(matcher.stopped(), stopped);
  }
}

TEST(StopMatcher, EndsBeforeTheFirstStopText) {
  CheckStops({"END"}, "abc END def", "abc ", true);
  CheckStops({"END", "c"}, "abc END def", "ab", true);
  CheckStops({"aab"}, "aaab", "a", true);
  CheckStops({"END"}, "EN EN", "EN EN", false);
  CheckStops({"\n\n"}, "a\nb\n", "a\nb\n", false);
  CheckStops({"", "x"}, "abc", "abc", false);
  CheckStops({}, "abc", "abc", false);
}

}  // namespace
}  // namespace duo
