#include "eval/result_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

using testing::HasSubstr;

const Json kRecipeA = {{"seed", 1}, {"model", "m"}};

TEST(ResultLog, KeepsWhatItWasGiven) {
  const TempDir dir;
  {
    ResultLog log = ResultLog::Open(dir.path() + "/new", "a.jsonl", kRecipeA).value();
    EXPECT_EQ(log.Find("x"), nullptr);
    ASSERT_TRUE(log.Append("x", {{"score", 0.25}}).ok());
    ASSERT_TRUE(log.Append("y", {{"score", 1.0 / 3}}).ok());
    EXPECT_EQ(log.Find("x")->at("score"), 0.25);
  }
  const ResultLog log = ResultLog::Open(dir.path() + "/new", "a.jsonl", kRecipeA).value();
  EXPECT_EQ(log.size(), 2u);
  EXPECT_EQ(log.Find("y")->at("score"), 1.0 / 3);  // bit for bit
}

TEST(ResultLog, HalfALineIsDropped) {
  const TempDir dir;
  {
    ResultLog log = ResultLog::Open(dir.path(), "a.jsonl", kRecipeA).value();
    ASSERT_TRUE(log.Append("x", {{"score", 1}}).ok());
    ASSERT_TRUE(log.Append("y", {{"score", 2}}).ok());
  }
  const std::string path = dir.file("a.jsonl"), whole = ReadFile(path, 1000).value();
  ASSERT_TRUE(WriteFileAtomic(path, whole.substr(0, whole.size() - 4)).ok());
  {
    ResultLog log = ResultLog::Open(dir.path(), "a.jsonl", kRecipeA).value();
    EXPECT_NE(log.Find("x"), nullptr);
    EXPECT_EQ(log.Find("y"), nullptr);
    ASSERT_TRUE(log.Append("y", {{"score", 2}}).ok());
  }
  EXPECT_EQ(ReadFile(path, 1000).value(), whole);
}

TEST(ResultLog, OtherRecipesAndBrokenFilesAreRefused) {
  const TempDir dir;
  {
    ResultLog log = ResultLog::Open(dir.path(), "a.jsonl", kRecipeA).value();
    ASSERT_TRUE(log.Append("x", {{"score", 1}}).ok());
  }
  const auto failure = [&](const Json& recipe) {
    return ResultLog::Open(dir.path(), "a.jsonl", recipe).status().message();
  };
  EXPECT_THAT(failure({{"seed", 2}, {"model", "m"}}), HasSubstr("seed 1, not 2"));
  EXPECT_THAT(failure({{"seed", 1}, {"model", "m"}, {"more", true}}), HasSubstr("more missing"));
  const std::string whole = ReadFile(dir.file("a.jsonl"), 1000).value();
  dir.Write("a.jsonl", whole + "no json\n" + "{}\n");
  EXPECT_THAT(failure(kRecipeA), HasSubstr("a.jsonl: line 3"));
  dir.Write("a.jsonl", "{\"other\":1}\n");
  EXPECT_THAT(failure(kRecipeA), HasSubstr("not a log of duo"));
  dir.Write("a.jsonl", "");
  EXPECT_THAT(failure(kRecipeA), HasSubstr("not a log of duo"));
  EXPECT_EQ(ReadFile(dir.file("a.jsonl"), 10).value(), "");  // a refused file stays as it is
}

TEST(ResultLog, OneProcessAtATime) {
  const TempDir dir;
  const ResultLog log = ResultLog::Open(dir.path(), "a.jsonl", kRecipeA).value();
  EXPECT_THAT(ResultLog::Open(dir.path(), "a.jsonl", kRecipeA).status().message(), HasSubstr("another run"));
}

TEST(ResultLog, WithoutAFileItRemembersOnly) {
  ResultLog log;
  ASSERT_TRUE(log.Append("x", {{"score", 1}}).ok());
  EXPECT_NE(log.Find("x"), nullptr);
}

}  // namespace
}  // namespace duo
