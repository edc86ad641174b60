#include "eval/longbench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/json.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

using testing::HasSubstr;

std::string Line(const std::string& context, const std::string& input, const std::vector<std::string>& answers) {
  return Json({{"context", context},
               {"input", input},
               {"answers", answers},
               {"all_classes", {"City", "Food"}},
               {"length", 5},
               {"dataset", "x"},
               {"language", "en"},
               {"_id", "1"}})
             .dump() +
         "\n";
}

TEST(LoadLongBench, EveryTaskHasPromptLengthAndMetric) {
  const TempDir dir;
  for (const std::string& task : LongBenchTasks())
    dir.Write(task + ".jsonl", Line("CONTEXT{input}", "INPUT", {"answer 7"}));
  const std::vector<LongBenchSample> all = LoadLongBench(dir.path(), {}, 0).value();
  ASSERT_EQ(all.size(), 21u);
  for (const LongBenchSample& sample : all) {
    EXPECT_THAT(sample.prompt, HasSubstr("CONTEXT{input}")) << sample.task;  // inserted text is not searched again
    EXPECT_EQ(sample.prompt.find("{context}"), std::string::npos) << sample.task;
    EXPECT_GE(LongBenchAnswerTokens(sample.task), 32) << sample.task;
    EXPECT_GE(LongBenchScore(sample, sample.answers[0]), sample.task == "trec" || sample.task == "lsht" ? 0 : 0.99)
        << sample.task;
    EXPECT_EQ(LongBenchScore(sample, ""), 0) << sample.task;
  }
  for (const char* task : {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}) {
    EXPECT_FALSE(LongBenchUsesChat(task)) << task;
  }
  EXPECT_TRUE(LongBenchUsesChat("qasper"));
  EXPECT_TRUE(IsChineseTask("dureader"));
  EXPECT_FALSE(IsChineseTask("lsht"));
}

TEST(LoadLongBench, SamplesOfOneTextComeTogether) {
  const TempDir dir;
  dir.Write("qasper.jsonl", Line("one", "a", {"x"}) + Line("two", "b", {"y"}) + "\n" + Line("one", "c", {"z"}));
  const auto samples = LoadLongBench(dir.path(), {"qasper"}, 0).value();
  ASSERT_EQ(samples.size(), 3u);
  EXPECT_EQ(samples[0].index, 0);
  EXPECT_EQ(samples[1].index, 2);
  EXPECT_EQ(samples[2].index, 1);
  EXPECT_EQ(LoadLongBench(dir.path() + "/qasper.jsonl", {}, 2)->size(), 2u);
  dir.Write("qasper_e.jsonl", Line("one", "a", {"x"}));
  EXPECT_EQ(LoadLongBench(dir.path(), {}, 0)->size(), 4u);
}

TEST(LoadLongBench, Version2) {
  const TempDir dir;
  Json question = {{"_id", "1"},           {"domain", "d"},     {"difficulty", "hard"}, {"length", "short"},
                   {"question", "Which?"}, {"choice_A", "one"}, {"choice_B", "two"},    {"choice_C", "three"},
                   {"choice_D", "four"},   {"answer", "B"},     {"context", "TEXT"}};
  dir.Write("data.json", Json::array({question, question}).dump());
  const auto samples = LoadLongBench(dir.path() + "/data.json", {}, 1).value();
  ASSERT_EQ(samples.size(), 1u);
  EXPECT_EQ(samples[0].group, "hard short");
  EXPECT_THAT(samples[0].prompt, HasSubstr("(C) three"));
  EXPECT_EQ(LongBenchScore(samples[0], "The correct answer is (B)"), 1);
  EXPECT_EQ(LongBenchScore(samples[0], "The correct answer is (A)"), 0);
  question["answer"] = "E";
  dir.Write("bad.json", Json::array({question}).dump());
  EXPECT_THAT(LoadLongBench(dir.path() + "/bad.json", {}, 0).status().message(), HasSubstr("element 0: answer"));
  dir.Write("bad.json", "{}");
  EXPECT_THAT(LoadLongBench(dir.path() + "/bad.json", {}, 0).status().message(), HasSubstr("expected an array"));
}

TEST(LoadLongBench, BadFilesNameTheirLine) {
  const TempDir dir;
  const auto failure = [&](const std::string& text, const std::string& task = "qasper") {
    dir.Write(task + ".jsonl", text);
    return LoadLongBench(dir.path(), {task}, 0).status().message();
  };
  EXPECT_THAT(failure(Line("c", "i", {"a"}) + "{\"input\":\"x\"}\n"), HasSubstr("qasper.jsonl: line 2: context"));
  EXPECT_THAT(failure("{\"context\":\"c\",\"answers\":\"a\"}\n"), HasSubstr("line 1: answers"));
  EXPECT_THAT(failure("{\"context\":\"c\",\"answers\":[1]}\n"), HasSubstr("line 1: answers"));
  EXPECT_THAT(failure("{\"context\":\"c\",\"answers\":[\"City\"]}\n", "trec"), HasSubstr("line 1: all_classes"));
  EXPECT_THAT(failure("{\"context\":\"\xe9\",\"answers\":[\"a\"]}\n"), HasSubstr("line 1"));  // Latin-1
  EXPECT_THAT(failure("\n\n"), HasSubstr("no samples"));
  const Status poem = LoadLongBench(dir.path(), {"poem"}, 0).status();
  EXPECT_THAT(poem.message(), HasSubstr("\"poem\" is not a task of LongBench"));
  EXPECT_EQ(poem.subject(), "tasks");
  EXPECT_EQ(LoadLongBench(dir.path() + "/is no LongBench task", {}, 0).status().subject(), "") << "a file, not a task";
  EXPECT_EQ(LoadLongBench(dir.path(), {"musique"}, 0).status().code(), StatusCode::kNotFound);
  const TempDir empty;
  EXPECT_THAT(LoadLongBench(empty.path(), {}, 0).status().message(), HasSubstr("no <task>.jsonl"));
  EXPECT_EQ(LoadLongBench(empty.path() + "/none", {}, 0).status().code(), StatusCode::kNotFound);
}

TEST(LongBenchScore, OnlyTheFirstLineOfFewShotAnswersCounts) {
  LongBenchSample sample;
  sample.task = "triviaqa";
  sample.answers = {"Paris", "City of Light"};
  EXPECT_EQ(LongBenchScore(sample, "\nParis\nPassage: more"), 1);
  EXPECT_EQ(LongBenchScore(sample, "the city of light"), 1);  // the best of several
  sample.task = "hotpotqa";
  EXPECT_LT(LongBenchScore(sample, "Paris\nPassage: more"), 1);
}

TEST(TruncateMiddle, LeavesBothEnds) {
  std::vector<int32_t> ids(10);
  std::iota(ids.begin(), ids.end(), 0);
  EXPECT_EQ(TruncateMiddle(ids, 10), ids);
  EXPECT_EQ(TruncateMiddle(ids, 4), (std::vector<int32_t>{0, 1, 8, 9}));
  EXPECT_EQ(TruncateMiddle(ids, 5), (std::vector<int32_t>{0, 1, 7, 8, 9}));
}

}  // namespace
}  // namespace duo
