#include "eval/needle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/data_for_test.h"
#include "eval/text_source.h"

namespace duo {
namespace {

using testing::HasSubstr;

TEST(KeywordScore, CountsWholeWordsWhateverTheirCase) {
  EXPECT_EQ(KeywordScore("Eat a SANDWICH in Dolores Park.", {"eat", "sandwich", "Dolores Park", "sunny"}), 0.75);
  EXPECT_EQ(KeywordScore("The code is 123456", {"12345"}), 0);  // part of another number
  EXPECT_EQ(KeywordScore("(12345)!", {"12345"}), 1);
  EXPECT_EQ(KeywordScore("", {"x"}), 0);
  EXPECT_EQ(KeywordScore("anything", {}), 1);
  EXPECT_EQ(KeywordScore("anything", {""}), 0);
  EXPECT_EQ(KeywordScore("in Zürich, ja", {"Zürich"}), 1);
  EXPECT_EQ(KeywordScore("Zürichberg", {"Zürich"}), 0);
  EXPECT_EQ(KeywordScore("答案是东京。", {"东京"}), 1);  // scripts without blanks have no word ends
  EXPECT_EQ(KeywordScore("the code is “48213”", {"48213"}), 1);
  EXPECT_EQ(KeywordScore("a sandwich—and more", {"SANDWICH", "more"}), 1);
  EXPECT_EQ(KeywordScore("xx 12 12345", {"12345"}), 1);  // a later occurrence may match
}

TEST(MakeNeedleTask, PresetsAreWhatTheySay) {
  const NeedleTask passkeys = MakeNeedleTask(NeedlePreset::kPasskey, 3, 5).value();
  ASSERT_EQ(passkeys.needles.size(), 3u);
  ASSERT_EQ(passkeys.questions.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_THAT(passkeys.needles[i], HasSubstr(passkeys.questions[i].keywords[0]));
    EXPECT_THAT(passkeys.questions[i].text, HasSubstr("passkey to the vault?"));
  }
  EXPECT_EQ(MakeNeedleTask(NeedlePreset::kPasskey, 3, 5)->needles, passkeys.needles);
  EXPECT_NE(MakeNeedleTask(NeedlePreset::kPasskey, 3, 6)->needles, passkeys.needles);
  EXPECT_THAT(MakeNeedleTask(NeedlePreset::kCode, 1, 5)->needles[0], HasSubstr("secret code"));
  EXPECT_EQ(MakeNeedleTask(NeedlePreset::kClassic, 1, 5)->questions[0].keywords.size(), 6u);
  EXPECT_FALSE(MakeNeedleTask(NeedlePreset::kClassic, 2, 5).ok());
  EXPECT_FALSE(MakeNeedleTask(NeedlePreset::kCode, 21, 5).ok());
}

class NeedlesTest : public testing::Test {
 protected:
  Result<std::vector<NeedleResult>> Run(const NeedleGrid& grid, double sparsity, ResultLog* log, int n_needles = 1,
                                        const std::string& mode = "m") {
    SessionOptions options;
    options.heads = ChooseBySparsity(pattern, sparsity).value();
    options.sink = pattern.sink, options.recent = pattern.recent, options.chunk = 128, options.max_context = 4096;
    PromptRunner runner = PromptRunner::Create(model, tokenizer, options).value();
    const NeedleSource source = [&](int seed) -> Result<NeedleText> {
      NeedleText text;
      text.text = builtin.Take(3000, static_cast<uint64_t>(seed), tokenizer).value();
      text.task = MakeNeedleTask(NeedlePreset::kPasskey, n_needles, static_cast<uint64_t>(seed)).value();
      return text;
    };
    return RunNeedles(mode, grid, source, tokenizer, &runner, log);
  }
  BackendPtr backend = CreateBackend({.n_threads = 2}).value();
  Model model = Model::Open(SourceDir() + "/models/demo", backend.get()).value();
  Tokenizer tokenizer = Tokenizer::Open(SourceDir() + "/models/demo").value();
  HeadPattern pattern = LoadHeadPattern(SourceDir() + "/models/demo/pattern").value();
  TextSource builtin = TextSource::Open("builtin").value();
};

double Mean(const std::vector<NeedleResult>& results) {
  double sum = 0;
  for (const NeedleResult& r : results) sum += r.reply.score;
  return sum / static_cast<double>(results.size());
}

TEST_F(NeedlesTest, FullAttentionFindsThemHalfOfTheHeadsTooNoneNothing) {
  const NeedleGrid grid{.lengths = {700, 2000}, .depths = {0.1, 0.5, 0.9}, .n_seeds = 2};
  ResultLog log;
  const auto full = Run(grid, 0, &log, 1, "full").value(), duo = Run(grid, 0.5, &log, 1, "duo").value(),
             none = Run(grid, 1, &log, 1, "none").value();
  ASSERT_EQ(full.size(), 12u);
  EXPECT_GE(Mean(full), 0.9);
  EXPECT_GE(Mean(duo), 0.9);
  EXPECT_LE(Mean(none), 0.2);
  const auto table = NeedleTable(grid, full);
  ASSERT_EQ(table.size(), 3u);
  ASSERT_EQ(table[0].size(), 2u);
}

TEST_F(NeedlesTest, PromptsHaveTheirLengthAndShareTheirBeginning) {
  const NeedleGrid grid{.lengths = {2000}, .depths = {0, 0.25, 0.5, 0.75, 1}, .n_seeds = 1};
  ResultLog log;
  const auto results = Run(grid, 0, &log).value();
  int64_t read = 0;
  for (const NeedleResult& r : results) {
    EXPECT_LE(r.reply.n_prompt, 2000);
    EXPECT_GE(r.reply.n_prompt, 1990);
    read += r.reply.n_prompt - r.reply.n_reused;
  }
  // Each prompt is read from the chunk of its own needle on: all of the first, then 1/4, 2/4, 3/4 and 4/4 of the text.
  EXPECT_LT(read, 7 * 2000 / 2 + 4 * 128);
  EXPECT_GT(read, 3 * 2000);
}

TEST_F(NeedlesTest, SeveralNeedlesAreAskedForOneByOne) {
  const NeedleGrid grid{.lengths = {1500}, .depths = {0.2}, .n_seeds = 1};
  ResultLog log;
  const auto results = Run(grid, 0, &log, 4).value();
  ASSERT_EQ(results.size(), 4u);
  EXPECT_GE(Mean(results), 0.75);
  for (size_t i = 1; i < 4; ++i) EXPECT_GT(results[i].reply.n_reused, 1000);
}

TEST_F(NeedlesTest, FinishedPromptsAreNotRunAgain) {
  const NeedleGrid small{.lengths = {700}, .depths = {0.5}, .n_seeds = 1};
  NeedleGrid grid{.lengths = {700}, .depths = {0.2, 0.5}, .n_seeds = 1};
  ResultLog log, whole;
  ASSERT_TRUE(Run(small, 0.5, &log).ok());
  const auto first = Run(grid, 0.5, &log).value(), second = Run(grid, 0.5, &whole).value();
  for (size_t i = 0; i < first.size(); ++i) EXPECT_EQ(first[i].reply.answer, second[i].reply.answer);
  EXPECT_EQ(log.size(), 2u);
}

TEST(NeedleTable, IsTheMeanOfEachCell) {
  const NeedleGrid grid{.lengths = {100, 200}, .depths = {0, 0.5, 1}, .n_seeds = 2};
  std::vector<NeedleResult> results;
  const auto add = [&](int64_t length, double depth, double score) {
    results.push_back({.length = length, .depth = depth, .reply = {.score = score, .answer = {}}});
  };
  add(100, 0, 1), add(100, 0, 0.5), add(200, 0.5, 0.25), add(100, 1, 1);
  add(300, 0, 1), add(100, 0.7, 1);  // in no cell
  EXPECT_EQ(NeedleTable(grid, results), (std::vector<std::vector<double>>{{0.75, 0}, {0, 0.25}, {1, 0}}));
}

// A prompt shares its text with the previous one up to its own needle. Reuse ends at the start of the chunk with the
// needle.
TEST_F(NeedlesTest, NeedlesGoToTheSentenceEndBeforeTheirDepth) {
  const NeedleGrid grid{.lengths = {1200}, .depths = {0, 0.3, 0.6, 0.9}, .n_seeds = 1};
  ResultLog log;
  const auto results = Run(grid, 0, &log).value();
  ASSERT_EQ(results.size(), 4u);
  for (size_t i = 1; i < results.size(); ++i) {
    ASSERT_GT(results[i - 1].depth, results[i].depth) << "the deepest first";
    // The text has about 1,150 tokens.
    const auto place = static_cast<int64_t>(results[i].depth * 1150);
    EXPECT_LE(results[i].reply.n_reused, place + 20);
    EXPECT_GE(results[i].reply.n_reused, place - 128 - 50) << "a chunk and a sentence before";
    EXPECT_EQ(results[i].reply.n_reused % 128, 0);
  }
  EXPECT_EQ(results[3].depth, 0);
  EXPECT_EQ(results[3].reply.n_reused, 0);
}

TEST_F(NeedlesTest, TheShortestAndTheLongestLengthAreTaken) {
  ResultLog log;
  const auto length_of = [&](int64_t length, const std::string& before) {
    const std::string message = Run({.lengths = {length}, .depths = {0.5}}, 0, &log).status().message();
    const size_t at = message.find(before);
    EXPECT_NE(at, std::string::npos) << message;
    return std::stoll(message.substr(at + before.size()));
  };
  const int64_t min = length_of(1, "alone take "), max = length_of(1 << 20, "the text has only ");
  EXPECT_GT(max, 3000);
  EXPECT_EQ(length_of(min - 1, "alone take "), min);
  EXPECT_EQ(length_of(max + 1, "the text has only "), max);
  const auto shortest = Run({.lengths = {min}, .depths = {0.5}}, 0, &log);
  ASSERT_TRUE(shortest.ok()) << shortest.status().message();
  EXPECT_EQ(shortest->at(0).reply.n_prompt, min);
  const auto longest = Run({.lengths = {max}, .depths = {1}}, 1, &log);
  ASSERT_TRUE(longest.ok()) << longest.status().message();
  EXPECT_EQ(longest->at(0).reply.n_prompt, max);
}

TEST_F(NeedlesTest, LengthsThatCannotBeAreNamed) {
  ResultLog log;
  EXPECT_THAT(Run({.lengths = {40}, .depths = {0.5}}, 0, &log).status().message(), HasSubstr("length of 40 tokens"));
  EXPECT_THAT(Run({.lengths = {5000}, .depths = {0.5}}, 0, &log).status().message(), HasSubstr("the text has only"));
}

}  // namespace
}  // namespace duo
