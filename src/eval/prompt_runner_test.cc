// Tests of reuse between prompts: fewer tokens are read, and nothing changes.
#include "eval/prompt_runner.h"

#include <gtest/gtest.h>

#include "base/data_for_test.h"
#include "base/rng.h"
#include "eval/scored_reply.h"

namespace duo {
namespace {

class PromptRunnerTest : public testing::Test {
 protected:
  PromptRunner Make(double sparsity, ComputeType compute) {
    SessionOptions options;
    options.heads = ChooseBySparsity(pattern, sparsity).value();
    options.sink = 8, options.recent = 24, options.chunk = 32, options.max_context = 2048;
    options.compute = compute;
    options.kv_type = compute == ComputeType::kF32 ? KvType::kF32 : KvType::kBF16;
    return PromptRunner::Create(model, tokenizer, options).value();
  }
  BackendPtr backend = CreateBackend({.n_threads = 2}).value();
  Model model = Model::Open(SourceDir() + "/models/demo", backend.get()).value();
  Tokenizer tokenizer = Tokenizer::Open(SourceDir() + "/models/demo").value();
  HeadPattern pattern = LoadHeadPattern(SourceDir() + "/models/demo/pattern").value();
};

// Runs prompts that share prefixes of all lengths one after another, and compares each with a new runner. Tokens and KV
// are the same, also with rounded arithmetic.
TEST_F(PromptRunnerTest, RepliesDoNotDependOnThePromptsBefore) {
  Rng rng(1);
  GenerateOptions generate;
  generate.max_tokens = 12;
  generate.ignore_eos = true;
  for (const double sparsity : {0.0, 0.5, 1.0}) {
    for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
      PromptRunner runner = Make(sparsity, compute);
      std::vector<int32_t> prompt;
      int64_t reused = 0;
      for (int i = 0; i < 12; ++i) {
        prompt.resize(rng.Below(prompt.size() + 1));
        const size_t length = prompt.size() + 1 + rng.Below(300);
        while (prompt.size() < length) prompt.push_back(static_cast<int32_t>(rng.Below(1000)));
        PromptRunner fresh = Make(sparsity, compute);
        const Reply a = runner.Run(prompt, generate).value(), b = fresh.Run(prompt, generate).value();
        ASSERT_EQ(a.text, b.text) << i;
        const std::span<const float> x = runner.session().logits(), y = fresh.session().logits();
        ASSERT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << i << " sparsity " << sparsity;
        EXPECT_EQ(b.n_reused, 0);
        EXPECT_EQ(a.n_prompt, static_cast<int64_t>(length));
        reused += a.n_reused;
      }
      EXPECT_GT(reused, 0);
    }
  }
}

TEST_F(PromptRunnerTest, TheSamePromptIsReadFromItsLastChunkOn) {
  PromptRunner runner = Make(0.5, ComputeType::kBF16);
  GenerateOptions generate;
  generate.max_tokens = 3;
  const std::vector<int32_t> prompt(100, 7);
  EXPECT_EQ(runner.Run(prompt, generate)->n_reused, 0);
  EXPECT_EQ(runner.Run(prompt, generate)->n_reused, 96);
}

TEST_F(PromptRunnerTest, IsAsGoodAsNewAfterItWasStopped) {
  PromptRunner runner = Make(0.5, ComputeType::kBF16);
  GenerateOptions generate;
  generate.max_tokens = 5;
  const std::vector<int32_t> prompt(200, 7);
  ASSERT_TRUE(runner.Run(prompt, generate).ok());
  int asked = 0;
  EXPECT_EQ(
      runner.Run(std::vector<int32_t>(150, 8), generate, [&](const Progress&) { return ++asked < 3; }).status().code(),
      StatusCode::kCancelled);
  EXPECT_EQ(runner.Run(prompt, generate)->text, Make(0.5, ComputeType::kBF16).Run(prompt, generate)->text);
}

TEST_F(PromptRunnerTest, AnswersAreComputedOnce) {
  PromptRunner runner = Make(0.5, ComputeType::kBF16);
  ResultLog log;
  int asked = 0;
  ScoredPrompt prompt{.key = "k",
                      .prompt =
                          [&] {
                            ++asked;
                            return std::vector<int32_t>(50, 9);
                          },
                      .score = [](const std::string&) { return 0.5; }};
  prompt.generate.max_tokens = 4;
  const ScoredReply first = AnswerOnce(prompt, &runner, &log, {}).value();
  const ScoredReply second = AnswerOnce(prompt, &runner, &log, {}).value();
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(first.answer, second.answer);
  EXPECT_EQ(second.score, 0.5);
  EXPECT_EQ(second.n_prompt, 50);
}

}  // namespace
}  // namespace duo
