// Tests of the questions of `duo demo` and of a run that is stopped. tests/demo_bench_plan_test.py tests the answers.
#include "eval/demo.h"

#include <gtest/gtest.h>

#include <string>

#include "base/data_for_test.h"

namespace duo {
namespace {

TEST(RandomHeadsLike, HasAsManyStreamingHeads) {
  for (int n_retrieval = 0; n_retrieval <= 6; ++n_retrieval) {
    HeadChoice like = AllRetrieval(2, 3);
    std::fill(like.retrieval.begin() + n_retrieval, like.retrieval.end(), 0);
    EXPECT_EQ(RandomHeadsLike(like, 7)->n_retrieval(), n_retrieval);
  }
}

TEST(MakeBookInput, AsksForEveryFactOfItsText) {
  const Tokenizer tokenizer = Tokenizer::Open(SourceDir() + "/models/demo").value();
  const DemoInput input = MakeBookInput(tokenizer, 600, 3, 1).value();
  const std::string text = tokenizer.Decode(input.text);
  ASSERT_EQ(input.questions.size(), 3u);
  for (const DemoQuestion& question : input.questions) {
    EXPECT_NE(text.find(*question.expected), std::string::npos);
    EXPECT_GT(input.max_tokens, std::ssize(tokenizer.Encode(*question.expected, SpecialTokens::kNone)));
  }
  EXPECT_LE(std::ssize(input.text), 600);
  EXPECT_EQ(MakeBookInput(tokenizer, 600, kMaxBookFacts + 1, 1).status().subject(), "n_facts");
}

TEST(RunDemoMode, StopsWhenItIsAsked) {
  const std::string dir = SourceDir() + "/models/demo";
  const BackendPtr backend = CreateBackend({.n_threads = 2}).value();
  const Model model = Model::Open(dir, backend.get()).value();
  const Tokenizer tokenizer = Tokenizer::Open(dir).value();
  const DemoInput input = MakeBookInput(tokenizer, 200, 1, 1).value();
  const auto run = [&](const GoOn& go_on) {
    return RunDemoMode("full", model, tokenizer, {}, input, {}, go_on).status().code();
  };
  EXPECT_EQ(run({}), StatusCode::kOk);
  EXPECT_EQ(run([] { return true; }), StatusCode::kOk);
  EXPECT_EQ(run([] { return false; }), StatusCode::kCancelled);
}

}  // namespace
}  // namespace duo
