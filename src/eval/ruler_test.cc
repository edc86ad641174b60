#include "eval/ruler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include "base/data_for_test.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

using testing::HasSubstr;

TEST(RulerScore, ByHand) {
  EXPECT_EQ(RulerScore("niah_single_1", "It is 1234567.", {"1234567"}), 1);
  EXPECT_EQ(RulerScore("vt", "VAR ABCDE, fghij", {"abcde", "FGHIJ", "KLMNO", "PQRST"}), 0.5);
  EXPECT_EQ(RulerScore("qa_1", "Paris it is", {"London", "paris"}), 1);
  EXPECT_EQ(RulerScore("qa_1", "Rome", {"London", "paris"}), 0);
  EXPECT_EQ(RulerScore("cwe", "", {"a"}), 0);
  EXPECT_EQ(RulerScore("cwe", "anything", {}), 0);
}

class RulerTest : public testing::Test {
 protected:
  RulerSample Make(const std::string& task, int64_t n, uint64_t seed = 3) const {
    return MakeRulerSample(task, n, seed, builtin, tokenizer).value();
  }
  Tokenizer tokenizer = Tokenizer::Open(SourceDir() + "/models/demo").value();
  TextSource builtin = TextSource::Open("builtin").value();
};

TEST_F(RulerTest, SamplesHaveTheirLengthAndDependOnTheSeedAlone) {
  for (const std::string& task : RulerTasks()) {
    for (const int64_t n : {5000, 9000, 40000}) {
      const RulerSample sample = Make(task, n);
      const auto tokens = static_cast<int64_t>(tokenizer.Encode(sample.input).size());
      EXPECT_LE(tokens, n) << task;
      EXPECT_GE(tokens, n * 85 / 100) << task;
      EXPECT_EQ(Make(task, n).input, sample.input) << task;
      EXPECT_NE(Make(task, n, 4).input, sample.input) << task;
      EXPECT_FALSE(sample.outputs.empty());
    }
  }
}

// Derives the answers of each task from its prompt again.
TEST_F(RulerTest, AnswersAreInTheText) {
  for (const char* task : {"niah_single_1", "niah_multikey_1"}) {
    const RulerSample sample = Make(task, 3000);
    const size_t asked = sample.input.rfind("magic number for ") + 17;
    const std::string key = sample.input.substr(asked, sample.input.find(' ', asked) - asked);
    EXPECT_THAT(sample.input, HasSubstr("magic numbers for " + key + " is: " + sample.outputs[0] + "."));
  }
  const RulerSample vt = Make("vt", 3000);
  ASSERT_EQ(vt.outputs.size(), 5u);
  for (size_t i = 1; i < 5; ++i) {
    EXPECT_THAT(vt.input, HasSubstr("VAR " + vt.outputs[i] + " = VAR " + vt.outputs[i - 1]));
  }
  for (const char* task : {"cwe", "fwe"}) {
    const RulerSample sample = Make(task, 9000);
    std::map<std::string, int> counts;
    std::istringstream words(sample.input.substr(0, sample.input.find("\nQuestion")));
    for (std::string word; words >> word;) ++counts[word];
    int least = 1 << 30, most = 0;
    const std::set<std::string> expected(sample.outputs.begin(), sample.outputs.end());
    for (const auto& [word, n] : counts) {
      const bool counted =
          word.size() >= 6 && word.find_first_not_of("abcdefghijklmnopqrstuvwxyz") == std::string::npos;
      if (expected.count(word) > 0) {
        least = std::min(least, n);
      } else if (counted) {
        most = std::max(most, n);
      }
    }
    EXPECT_GT(least, most) << task;
  }
}

size_t Count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST_F(RulerTest, NeedlesAreHiddenAnywhere) {
  double least = 1, most = 0;
  std::set<std::string> keys;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const RulerSample one = Make("niah_single_1", 2000, seed), four = Make("niah_multikey_1", 2000, seed);
    EXPECT_EQ(Count(one.input, "One of the special magic numbers for "), 1u);
    EXPECT_EQ(Count(four.input, "One of the special magic numbers for "), 4u);
    EXPECT_EQ(one.outputs[0].size(), 7u);
    EXPECT_NE(one.outputs[0][0], '0');
    const double place = static_cast<double>(one.input.find("One of the")) / static_cast<double>(one.input.size());
    least = std::min(least, place), most = std::max(most, place);
    const size_t key = one.input.find("numbers for ") + 12;
    keys.insert(one.input.substr(key, one.input.find(' ', key) - key));
    EXPECT_EQ(Count(one.input, "The grass is green."), Count(one.input, "There and back again.\n"));
    EXPECT_GT(Count(one.input, "The grass is green."), 20u);
    EXPECT_EQ(Count(four.input, "The grass is green."), 0u);
  }
  EXPECT_LT(least, 0.25);
  EXPECT_GT(most, 0.7);
  EXPECT_GT(keys.size(), 8u);
}

TEST_F(RulerTest, ChainsStandInOrder) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const RulerSample vt = Make("vt", 2500, seed);
    size_t before = vt.input.find("VAR " + vt.outputs[0] + " = ");
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(vt.outputs[i].size(), 5u);
      EXPECT_EQ(vt.outputs[i].find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), std::string::npos);
      const size_t at = vt.input.find("VAR " + vt.outputs[i] + " = ");
      ASSERT_NE(at, std::string::npos);
      EXPECT_GE(at, before) << "a variable is assigned after the one that it takes";
      before = at;
    }
    EXPECT_EQ(Count(vt.input, "VAR "), 4u * 2 + 1);
    EXPECT_EQ(Count(vt.input, "5 variables are assigned the value"), 1u);
    const size_t value = vt.input.find("VAR " + vt.outputs[0] + " = ") + 12;
    EXPECT_EQ(vt.input.substr(value, 5).find_first_not_of("0123456789"), std::string::npos);
    EXPECT_EQ(Count(vt.input, "the value " + vt.input.substr(value, 5)), 2u);
  }
}

// The ten common words appear 30 times each, the others three times each.
TEST_F(RulerTest, CommonWordsAreTenTimesAsCommon) {
  const RulerSample cwe = Make("cwe", 9000);
  std::map<std::string, int> counts;
  std::istringstream words(cwe.input.substr(0, cwe.input.find("\nQuestion")));
  int numbered = 0;
  for (std::string number, word; words >> number;) {
    if (number != std::to_string(numbered + 1) + ".") continue;
    words >> word;
    ++numbered;
    ++counts[word];
  }
  ASSERT_EQ(cwe.outputs.size(), 10u);
  int total = 0;
  for (const std::string& word : cwe.outputs) {
    EXPECT_EQ(counts[word], 30) << word;
    total += 30;
    counts.erase(word);
  }
  EXPECT_GT(counts.size(), 20u);
  for (const auto& [word, n] : counts) {
    EXPECT_EQ(n, 3) << word;
    total += n;
  }
  EXPECT_EQ(total, numbered);
}

// Zipf's law with alpha 2: the first word is 9/4 times as frequent as the second, and 4 times as frequent as the third.
TEST_F(RulerTest, FrequentWordsFollowZipf) {
  const RulerSample fwe = Make("fwe", 30000);
  ASSERT_EQ(fwe.outputs.size(), 3u);
  std::vector<double> n;
  for (const std::string& word : fwe.outputs) {
    EXPECT_EQ(word.size(), 6u);
    n.push_back(static_cast<double>(Count(fwe.input, " " + word)));
  }
  EXPECT_GT(n[2], 30);
  EXPECT_NEAR(n[0] / n[1], 9.0 / 4, 0.1);
  EXPECT_NEAR(n[0] / n[2], 4, 0.2);
  // The share of the word of rank 2 is 1/4 over the sum of 1/rank^2 from rank 2 on. Dots are half as many as all words.
  const double total = n[0] / (0.25 / 0.64), dots = static_cast<double>(Count(fwe.input, " ...."));
  EXPECT_NEAR(dots / total, 0.5, 0.03);
}

TEST(RulerTasks, HaveTheirAnswersLength) {
  for (const auto& [task, n] : std::vector<std::pair<std::string, int64_t>>{
           {"vt", 30}, {"cwe", 120}, {"fwe", 50}, {"qa_1", 32}, {"qa_2", 32}, {"niah_single_1", 128}, {"other", 128}}) {
    EXPECT_EQ(RulerAnswerTokens(task), n) << task;
  }
}

TEST_F(RulerTest, TheShortestPromptIsTaken) {
  for (const std::string& task : RulerTasks()) {
    const std::string message = MakeRulerSample(task, 1, 3, builtin, tokenizer).status().message();
    const size_t at = message.find("takes ");
    ASSERT_NE(at, std::string::npos) << message;
    const int64_t least = std::stoll(message.substr(at + 6));
    if (task == "niah_multikey_1") continue;  // its text depends on the length
    EXPECT_FALSE(MakeRulerSample(task, least - 1, 3, builtin, tokenizer).ok()) << task;
    const auto shortest = MakeRulerSample(task, least, 3, builtin, tokenizer);
    ASSERT_TRUE(shortest.ok()) << task;
    EXPECT_EQ(static_cast<int64_t>(tokenizer.Encode(shortest->input).size()), least) << task;
  }
}

TEST_F(RulerTest, BadRequestsAreNamed) {
  EXPECT_THAT(MakeRulerSample("poem", 3000, 1, builtin, tokenizer).status().message(), HasSubstr("poem"));
  EXPECT_THAT(MakeRulerSample("cwe", 100, 1, builtin, tokenizer).status().message(), HasSubstr("cwe: the shortest"));
}

TEST(LoadRuler, ReadsFilesAndFolders) {
  const TempDir dir;
  for (const char* task : {"vt", "cwe"}) std::filesystem::create_directories(dir.path() + "/" + task);
  dir.Write("vt/validation.jsonl", "{\"input\":\"a\",\"outputs\":[\"x\",5],\"answer_prefix\":\" B:\"}\n\n");
  dir.Write("cwe/validation.jsonl", "{\"input\":\"q B:\",\"outputs\":[\"y\"],\"answer_prefix\":\" B:\"}");
  const std::vector<RulerSample> all = LoadRuler(dir.path()).value();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].task, "cwe");
  EXPECT_EQ(all[0].input, "q B:");  // the input already has the prefix
  EXPECT_EQ(all[1].input, "a B:");
  EXPECT_EQ(all[1].outputs, (std::vector<std::string>{"x", "5"}));
  EXPECT_EQ(LoadRuler(dir.path() + "/vt")->size(), 1u);
  EXPECT_EQ(LoadRuler(dir.path() + "/vt/validation.jsonl")->at(0).task, "vt");
}

TEST(LoadRuler, BadFilesNameTheirLine) {
  const TempDir dir;
  const auto failure = [&](const std::string& text) {
    dir.Write("validation.jsonl", text);
    return LoadRuler(dir.path()).status().message();
  };
  EXPECT_THAT(failure("{\"input\":\"a\",\"outputs\":[\"x\"]}\n{\"outputs\":[\"x\"]}\n"), HasSubstr("line 2: input"));
  EXPECT_THAT(failure("{\"input\":\"a\",\"outputs\":[]}\n"), HasSubstr("line 1: outputs"));
  EXPECT_THAT(failure("{\"input\":\"a\",\"outputs\":[{}]}\n"), HasSubstr("line 1: outputs"));
  EXPECT_THAT(failure("nonsense\n"), HasSubstr("line 1"));
  EXPECT_THAT(failure("{\"input\":\"\xff\",\"outputs\":[\"x\"]}\n"), HasSubstr("line 1"));
  EXPECT_THAT(failure(""), HasSubstr("no samples"));
  const TempDir empty;
  EXPECT_EQ(LoadRuler(empty.path()).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace duo
