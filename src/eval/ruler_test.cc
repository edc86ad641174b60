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

// The answers of each task, worked out from its prompt again.
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
  EXPECT_EQ(all[0].input, "q B:");  // the prefix is there already
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
