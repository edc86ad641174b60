#include "duo/head_pattern.h"
#include "base/rng.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <map>

#include "base/data_for_test.h"
#include "base/file.h"
#include "base/json.h"
#include "base/temp_dir_for_test.h"
#include "duo/head_report.h"
#include "heads/pattern_for_test.h"
#include "heads/pattern_format.h"

namespace duo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kConfig = R"({"sink_size": 4, "recent_size": 16})";

class PatternDir : public ::testing::Test {
 protected:
  const TempDir dir_;
  const std::string& path_ = dir_.path();
};

void ExpectCorrupt(std::string_view tsv, std::string_view config, const std::string& sentence) {
  const Result<HeadPattern> pattern = ParseHeadPattern(tsv, config, "dir");
  ASSERT_FALSE(pattern.ok()) << tsv << config;
  EXPECT_EQ(pattern.status().code(), StatusCode::kCorrupt) << pattern.status().message();
  EXPECT_THAT(pattern.status().message(), HasSubstr(sentence));
}

TEST(HeadPatternFormat, ReadsRowsAndWindow) {
  const Result<HeadPattern> pattern = ParseHeadPattern("1.0e+00\t-5.3e-04\r\n +0.25 \t2\r\n\r\n\n", kConfig, "dir");
  ASSERT_TRUE(pattern.ok()) << pattern.status().message();
  EXPECT_EQ(pattern->n_layers, 2);
  EXPECT_EQ(pattern->n_kv_heads, 2);
  EXPECT_THAT(pattern->gates, ElementsAre(1.0, -5.3e-04, 0.25, 2.0));
  EXPECT_EQ(pattern->gate(1, 0), 0.25);
  EXPECT_EQ(pattern->sink, 4);
  EXPECT_EQ(pattern->recent, 16);
  EXPECT_EQ(pattern->config_json, kConfig);
}

TEST(HeadPatternFormat, DeploySizesWinWhenTheyAreNumbers) {
  const char* config = R"({"sink_size":128,"recent_size":256,"deploy_sink_size":null,"deploy_recent_size":1024})";
  const Result<HeadPattern> pattern = ParseHeadPattern("1", config, "dir");
  ASSERT_TRUE(pattern.ok());
  EXPECT_EQ(pattern->sink, 128);
  EXPECT_EQ(pattern->recent, 1024);
}

TEST(HeadPatternFormat, NamesTheBadCell) {
  ExpectCorrupt("1\t2\n3\n", kConfig, "dir/full_attention_heads.tsv: line 2: 1 columns, expected 2");
  ExpectCorrupt("1\t2\n3\t4\t5\n", kConfig, "line 2: 3 columns, expected 2");
  ExpectCorrupt("1\t2\n3\tnan\n", kConfig, "line 2, column 2: \"nan\", expected a finite number");
  ExpectCorrupt("-inf\n", kConfig, "line 1, column 1: \"-inf\"");
  ExpectCorrupt("1\tx\n", kConfig, "line 1, column 2: \"x\", expected a number");
  ExpectCorrupt("1\t\n", kConfig, "line 1, column 2: \"\"");
  ExpectCorrupt("1 2\n", kConfig, "line 1, column 1: \"1 2\"");
  ExpectCorrupt("+-1\n", kConfig, "expected a number");
  ExpectCorrupt("1e999\n", kConfig, "a number that a double can hold");
  ExpectCorrupt("1\n\n2\n", kConfig, "line 2, column 1");
  ExpectCorrupt("", kConfig, "no gates");
  ExpectCorrupt("\n\r\n", kConfig, "no gates");
  ExpectCorrupt(std::string(3000, '1').replace(1, 0, "\n"), kConfig, "double can hold");
}

TEST(HeadPatternFormat, LimitsItsShape) {
  std::string rows, columns = "1";
  for (int i = 0; i <= limits::kMaxPatternLayers; ++i) rows += "1\n";
  for (int i = 0; i < limits::kMaxPatternKvHeads; ++i) columns += "\t1";
  ExpectCorrupt(rows, kConfig, "more than 1024 lines");
  ExpectCorrupt(columns, kConfig, "more than 4096 columns");
}

TEST(HeadPatternFormat, ChecksTheConfig) {
  ExpectCorrupt("1", "{", "dir/config.json: not valid JSON");
  ExpectCorrupt("1", "[]", "dir/config.json: expected a JSON object");
  ExpectCorrupt("1", R"({"sink_size":4})", "recent_size: expected a whole number, found nothing");
  ExpectCorrupt("1", R"({"sink_size":-1,"recent_size":16})", "sink_size: -1, expected 0..1073741824 tokens");
  ExpectCorrupt("1", R"({"sink_size":4,"recent_size":0})", "recent_size: 0, expected 1..");
  ExpectCorrupt("1", R"({"sink_size":4,"recent_size":1e15})", "recent_size: 1000000000000000");
  ExpectCorrupt("1", R"({"sink_size":4,"recent_size":1.5})", "recent_size: expected a whole number");
  ExpectCorrupt("1", R"({"sink_size":4,"recent_size":9,"deploy_sink_size":-2})", "deploy_sink_size: -2");
  EXPECT_TRUE(ParseHeadPattern("1", R"({"sink_size":0,"recent_size":1})", "dir").ok());
}

TEST_F(PatternDir, SaveThenLoadIsTheSamePattern) {
  HeadPattern pattern = MakePattern(2, 3, {0.1, 1.0 / 3.0, -5e-324, 1.7976931348623157e308, -0.0, 4.0881e-01});
  pattern.sink = 7;
  pattern.recent = 9;
  pattern.config_json = R"({"model_name":"x","zeta":[1,null],"sink_size":1,"alpha":2})";
  const std::string dir = path_ + "/new/pattern";
  const Status saved = SaveHeadPattern(pattern, dir);
  ASSERT_TRUE(saved.ok()) << saved.message();
  const Result<HeadPattern> loaded = LoadHeadPattern(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  ASSERT_EQ(loaded->gates.size(), pattern.gates.size());
  EXPECT_EQ(std::memcmp(loaded->gates.data(), pattern.gates.data(), pattern.gates.size() * sizeof(double)), 0);
  EXPECT_EQ(loaded->sink, 7);
  EXPECT_EQ(loaded->recent, 9);
  const Result<Json> config = ParseJson(loaded->config_json, "config");
  EXPECT_EQ((*config)["zeta"], Json::array({1, nullptr}));
  EXPECT_EQ((*config)["model_name"], "x");
  EXPECT_LT(loaded->config_json.find("zeta"), loaded->config_json.find("alpha")) << "the keys' order is kept";
}

TEST_F(PatternDir, SavingFollowsTheDeployKeys) {
  HeadPattern pattern = MakePattern(1, 1, {1});
  pattern.config_json = R"({"sink_size":128,"recent_size":256,"deploy_sink_size":64,"deploy_recent_size":null})";
  pattern.sink = 16;
  pattern.recent = 32;
  ASSERT_TRUE(SaveHeadPattern(pattern, path_).ok());
  const Result<HeadPattern> loaded = LoadHeadPattern(path_);
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->sink, 16);
  EXPECT_EQ(loaded->recent, 32);
  const Result<Json> config = ParseJson(loaded->config_json, "config");
  EXPECT_EQ((*config)["sink_size"], 128);
  EXPECT_EQ((*config)["deploy_sink_size"], 16);
}

TEST_F(PatternDir, SavingRefusesWhatCannotBeLoaded) {
  EXPECT_EQ(SaveHeadPattern(MakePattern(2, 2, {1, 1, 1}), path_).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(SaveHeadPattern(MakePattern(0, 0, {}), path_).code(), StatusCode::kInvalidArgument);
  const Status nan = SaveHeadPattern(MakePattern(1, 2, {1, std::numeric_limits<double>::quiet_NaN()}), path_);
  EXPECT_THAT(nan.message(), HasSubstr("layer 0, kv head 1 is not finite"));
  HeadPattern no_window = MakePattern(1, 1, {1});
  no_window.recent = 0;
  EXPECT_EQ(SaveHeadPattern(no_window, path_).code(), StatusCode::kInvalidArgument);
  HeadPattern bad_config = MakePattern(1, 1, {1});
  bad_config.config_json = "[]";
  EXPECT_EQ(SaveHeadPattern(bad_config, path_).code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(FileExists(path_ + "/full_attention_heads.tsv"));
  EXPECT_EQ(SaveHeadPattern(MakePattern(1, 1, {1}), "/proc/no/such/place").code(), StatusCode::kIo);
}

TEST_F(PatternDir, MissingFilesAreNamed) {
  EXPECT_EQ(LoadHeadPattern(path_ + "/x").status().code(), StatusCode::kNotFound);
  const Status status = LoadHeadPattern(path_).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("full_attention_heads.tsv"));
}

TEST(HeadChoice, KeepsTheQuantileRulesCount) {
  HeadPattern pattern = MakePattern(4, 4, {});
  for (int i = 0; i < 16; ++i) pattern.gates.push_back(i / 16.0);
  const std::map<double, int> expected = {{0.0, 16}, {0.01, 15}, {0.5, 8}, {0.75, 4}, {0.99, 1}, {1.0, 0}};
  for (const auto& [sparsity, n] : expected) {
    const Result<HeadChoice> choice = ChooseBySparsity(pattern, sparsity);
    ASSERT_TRUE(choice.ok());
    EXPECT_EQ(choice->n_retrieval(), n) << sparsity;
    EXPECT_EQ(choice->sparsity(), 1.0 - n / 16.0);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(choice->retrieval[i], i >= 16 - n) << i;
  }
  for (const double bad : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(ChooseBySparsity(pattern, bad).status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(HeadChoice, TiesGoToTheLowerLayerThenTheLowerHead) {
  // Clipped, 1.5 and 1.0 tie, as do -3 and 0.
  const HeadPattern pattern = MakePattern(2, 3, {0.0, 1.0, 0.5, 1.5, 0.5, -3.0});
  EXPECT_THAT(ChooseBySparsity(pattern, 1.0 - 1e-9)->retrieval, ElementsAre(0, 1, 0, 0, 0, 0));
  EXPECT_THAT(ChooseBySparsity(pattern, 0.6)->retrieval, ElementsAre(0, 1, 1, 1, 0, 0));
  EXPECT_THAT(ChooseBySparsity(pattern, 0.2)->retrieval, ElementsAre(1, 1, 1, 1, 1, 0));
  EXPECT_EQ(ChooseBySparsity(pattern, 0.6)->n_retrieval_in(0), 2);
}

// As many heads as a real model has, most of them tied. An unstable sort keeps the order only in short lists.
TEST(HeadChoice, ManyTiesGoByPositionToo) {
  const int n_layers = 48, n_heads = 8;
  Rng rng(4);
  std::vector<double> gates, of_layers;
  for (int layer = 0; layer < n_layers; ++layer) {
    of_layers.push_back(0.5 * rng.Below(3));
    for (int head = 0; head < n_heads; ++head) gates.push_back(0.5 * rng.Below(3));
  }
  const auto check = [](const std::vector<double>& values, const auto& kept) {
    for (size_t i = 0; i < values.size(); ++i) {
      for (size_t j = 0; j < values.size(); ++j) {
        if (!kept(i) || kept(j)) continue;
        EXPECT_TRUE(values[i] > values[j] || (values[i] == values[j] && i < j)) << i << " and not " << j;
      }
    }
  };
  std::vector<double> equal_in_layers;
  for (const double gate : of_layers) equal_in_layers.insert(equal_in_layers.end(), n_heads, gate);
  for (const double sparsity : {0.2, 0.5, 0.8}) {
    const HeadChoice heads = ChooseBySparsity(MakePattern(n_layers, n_heads, gates), sparsity).value();
    check(gates, [&](size_t i) { return heads.retrieval[i] != 0; });
    const HeadChoice layers = ChooseLayersBySparsity(MakePattern(n_layers, n_heads, equal_in_layers), sparsity).value();
    check(of_layers, [&](size_t i) { return layers.n_retrieval_in(i) != 0; });
  }
}

// Compares with every choice of the same number of layers: none changes the gates less.
TEST(HeadChoice, ExclusiveLayersChangeTheGatesLeast) {
  Rng rng(9);
  for (int round = 0; round < 20; ++round) {
    const int n_layers = 6, n_heads = 3;
    std::vector<double> gates;
    for (int i = 0; i < n_layers * n_heads; ++i) gates.push_back(rng.Uniform() * 1.4 - 0.2);  // some beyond 0..1
    const HeadPattern pattern = MakePattern(n_layers, n_heads, gates);
    const HeadChoice choice = ChooseLayersBySparsity(pattern, 0.5).value();
    const auto change = [&](unsigned kept) {
      double sum = 0;
      for (int i = 0; i < n_layers * n_heads; ++i) {
        const double gate = std::clamp(gates[i], 0.0, 1.0);
        sum += (kept >> (i / n_heads) & 1) != 0 ? 1 - gate : gate;
      }
      return sum;
    };
    unsigned chosen = 0;
    for (int layer = 0; layer < n_layers; ++layer) {
      const int n = choice.n_retrieval_in(layer);
      ASSERT_TRUE(n == 0 || n == n_heads);
      if (n != 0) chosen |= 1u << layer;
    }
    ASSERT_EQ(__builtin_popcount(chosen), 3);  // 6 - ceil(0.5 * 5)
    for (unsigned kept = 0; kept < 64; ++kept) {
      if (__builtin_popcount(kept) != 3) continue;
      EXPECT_LE(change(chosen), change(kept) + 1e-12);
    }
  }
}

TEST(HeadChoice, ExclusiveLayersBreakTiesByPositionAndKeepAllOrNone) {
  const HeadPattern pattern = MakePattern(3, 2, {0.5, 0.5, 1.0, 0.0, 0.2, 0.8});
  EXPECT_EQ(ChooseLayersBySparsity(pattern, 0.5)->retrieval, (std::vector<uint8_t>{1, 1, 1, 1, 0, 0}));
  EXPECT_EQ(ChooseLayersBySparsity(pattern, 0.0)->n_retrieval(), 6);
  EXPECT_EQ(ChooseLayersBySparsity(pattern, 1.0)->n_retrieval(), 0);
  EXPECT_FALSE(ChooseLayersBySparsity(pattern, 1.5).ok());
}

TEST(HeadChoice, AGateThatIsNoNumberHasNoPlaceInAnOrder) {
  HeadPattern pattern;
  pattern.n_layers = 40;
  pattern.n_kv_heads = 8;
  pattern.gates.assign(320, 0.5);
  for (size_t i = 0; i < pattern.gates.size(); i += 3) pattern.gates[i] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(ChooseBySparsity(pattern, 0.5).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ChooseLayersBySparsity(pattern, 0.5).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(DiffPatterns(pattern, pattern, 0.5).status().code(), StatusCode::kInvalidArgument);
}

TEST(HeadChoice, ByThreshold) {
  const HeadPattern pattern = MakePattern(1, 4, {0.5, 0.49, 1.5, -1});
  EXPECT_THAT(ChooseByThreshold(pattern, 0.5).retrieval, ElementsAre(1, 0, 1, 0));
  EXPECT_THAT(ChooseByThreshold(pattern, 1.0).retrieval, ElementsAre(0, 0, 1, 0));
  EXPECT_EQ(ChooseByThreshold(pattern, 0.0).n_retrieval(), 4);
  EXPECT_EQ(ChooseByThreshold(pattern, 1.01).n_retrieval(), 0);
  EXPECT_EQ(AllRetrieval(2, 3).n_retrieval(), 6);
  EXPECT_EQ(AllRetrieval(2, 3).sparsity(), 0.0);
}

TEST(HeadChoice, AtRandomIsSeededAndHasTheSameCount) {
  const Result<HeadChoice> a = ChooseAtRandom(32, 8, 0.5, 1);
  const Result<HeadChoice> again = ChooseAtRandom(32, 8, 0.5, 1);
  const Result<HeadChoice> b = ChooseAtRandom(32, 8, 0.5, 2);
  ASSERT_TRUE(a.ok() && again.ok() && b.ok());
  EXPECT_EQ(a->n_retrieval(), 128);
  EXPECT_EQ(a->retrieval, again->retrieval);
  EXPECT_NE(a->retrieval, b->retrieval);
  EXPECT_EQ(ChooseAtRandom(2, 2, 0.0, 1)->n_retrieval(), 4);
  EXPECT_EQ(ChooseAtRandom(2, 2, 1.0, 1)->n_retrieval(), 0);
  EXPECT_FALSE(ChooseAtRandom(2, 2, 2.0, 1).ok());
  // Every head is drawn in about half of the 200 draws (standard deviation 7).
  std::vector<int> drawn(16, 0);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    for (size_t i = 0; i < 16; ++i) drawn[i] += ChooseAtRandom(4, 4, 0.5, seed)->retrieval[i];
  }
  for (const int n : drawn) EXPECT_NEAR(n, 100, 42);
}

TEST(HeadChoice, BecomesAPattern) {
  HeadPattern pattern = MakePattern(2, 2, {0.9, 0.1, 0.2, 0.8});
  pattern.sink = 3;
  pattern.config_json = R"({"k":1})";
  const HeadPattern chosen = ToPattern(*ChooseBySparsity(pattern, 0.5), pattern);
  EXPECT_THAT(chosen.gates, ElementsAre(1, 0, 0, 1));
  EXPECT_EQ(chosen.sink, 3);
  EXPECT_EQ(chosen.config_json, pattern.config_json);
  EXPECT_TRUE(CheckPatternShape(chosen, 2, 2).ok());
  EXPECT_TRUE(CheckPatternShape(ToPattern(AllRetrieval(3, 2), {}), 3, 2).ok()) << "the choice has the shape";
  const Status wrong = CheckPatternShape(chosen, 32, 8);
  EXPECT_EQ(wrong.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(wrong.message(), HasSubstr("2 layers x 2 kv heads, the model has 32 layers x 8 kv heads"));
}

TEST_F(PatternDir, PublishedPatterns) {
  const std::string published = SharedData("patterns");
  if (published.empty()) GTEST_SKIP() << "SKIPPED: no patterns in DUO_SHARED_DIR";
  const std::map<std::string, std::pair<int, int>> expected = {
      {"Llama-2-7B-32K-Instruct", {32, 512}},           {"Llama-3-8B-Instruct-Gradient-1048k", {8, 128}},
      {"Llama-3-8B-Instruct-Gradient-4194k", {8, 128}}, {"Meta-Llama-3.1-8B-Instruct", {8, 128}},
      {"Mistral-7B-Instruct-v0.2", {8, 128}},           {"Mistral-7B-Instruct-v0.3", {8, 128}}};
  for (const auto& [name, facts] : expected) {
    const std::string dir = published + "/" + name;
    const Result<HeadPattern> pattern = LoadHeadPattern(dir);
    ASSERT_TRUE(pattern.ok()) << pattern.status().message();
    EXPECT_TRUE(CheckPatternShape(*pattern, 32, facts.first).ok()) << name;
    EXPECT_EQ(pattern->sink, 128);
    EXPECT_EQ(pattern->recent, 256);
    EXPECT_EQ(ChooseBySparsity(*pattern, 0.5)->n_retrieval(), facts.second) << name;
    // Saving reproduces the published bytes.
    const std::string copy = path_ + "/" + name;
    ASSERT_TRUE(SaveHeadPattern(*pattern, copy).ok());
    for (const char* file : {"/full_attention_heads.tsv", "/config.json"}) {
      EXPECT_EQ(*ReadFile(copy + file, 1 << 20), *ReadFile(dir + file, 1 << 20)) << name << file;
    }
  }
}

TEST(PublishedPattern, TiesAtTheCutAreBrokenByPosition) {
  const std::string dir = SharedData("patterns/Llama-3-8B-Instruct-Gradient-1048k");
  if (dir.empty()) GTEST_SKIP() << "SKIPPED: no patterns in DUO_SHARED_DIR";
  const Result<HeadPattern> pattern = LoadHeadPattern(dir);
  ASSERT_TRUE(pattern.ok());
  EXPECT_EQ(ChooseByThreshold(*pattern, 1.0).n_retrieval(), 82);
  const HeadChoice choice = *ChooseBySparsity(*pattern, 0.75);
  EXPECT_EQ(choice.n_retrieval(), 64);  // 256 - ceil(0.75 * 255)
  int n_ones = 0;
  for (size_t i = 0; i < pattern->gates.size(); ++i) {
    EXPECT_EQ(choice.retrieval[i] != 0, pattern->gates[i] >= 1.0 && n_ones < 64) << i;
    n_ones += pattern->gates[i] >= 1.0;
  }
}

TEST(GoldenPatterns, SparsityOneHalfMakesTheGoldenChoice) {
  const std::string golden = SharedData("golden");
  if (golden.empty()) GTEST_SKIP() << "SKIPPED: no golden models in DUO_SHARED_DIR";
  for (const char* name : {"llama3_rope", "llama_gqa", "mistral_headdim", "qwen2_bias"}) {
    const Result<HeadPattern> pattern = LoadHeadPattern(golden + "/" + name + "/pattern");
    ASSERT_TRUE(pattern.ok()) << pattern.status().message();
    const std::string path = golden + "/" + name + "/golden.json";
    const Result<Json> json = ParseJson(*ReadFile(path, 1 << 24), path);
    const HeadChoice choice = *ChooseBySparsity(*pattern, (*json)["sparsity"].get<double>());
    for (int layer = 0; layer < pattern->n_layers; ++layer) {
      for (int head = 0; head < pattern->n_kv_heads; ++head) {
        const size_t row = layer, column = head;
        EXPECT_EQ((*json)["retrieval_heads"][row][column].get<int>(), choice.is_retrieval(layer, head) ? 1 : 0) << name;
      }
    }
    EXPECT_EQ((*json)["recent"].get<int64_t>(), pattern->recent);
  }
}

}  // namespace
}  // namespace duo
