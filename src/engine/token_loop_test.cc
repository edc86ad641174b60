// Tests of the token loop: how it handles each token, where it ends, stop strings, and text that is held back.
#include "engine/token_loop.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "base/data_for_test.h"
#include "model/tiny_config_for_test.h"

namespace duo {
namespace {

GenerateOptions MaxTokens(int64_t n) {
  GenerateOptions options;
  options.max_tokens = n;
  return options;
}

class TokenLoopTest : public testing::Test {
 protected:
  void SetUp() override {
    tokenizer_.emplace(Tokenizer::Open(SourceDir() + "/tests/data/tokenizers/gpt2").value());
    config_ = TinyConfig();
    config_.vocab_size = tokenizer_->vocab_size();
  }
  /// Logits that make a greedy sampler choose `id`.
  std::vector<float> For(int32_t id) const {
    std::vector<float> logits(config_.vocab_size, 0.0f);
    logits[id] = 1;
    return logits;
  }
  /// Gives the loop the tokens of a text until it has finished. Returns the joined pieces.
  std::string Run(TokenLoop* loop, const std::string& text) const {
    std::string pieces;
    for (const int32_t id : Ids(text)) {
      if (loop->finished()) break;
      const TokenLoop::Step step = loop->Next(For(id), {});
      EXPECT_EQ(step.id, id);
      EXPECT_TRUE(step.is_text);
      pieces += step.piece;
    }
    return pieces;
  }
  std::vector<int32_t> Ids(const std::string& text) const { return tokenizer_->Encode(text, SpecialTokens::kNone); }

  std::optional<Tokenizer> tokenizer_;
  ModelConfig config_;
};

TEST_F(TokenLoopTest, EndsAfterMaxTokens) {
  TokenLoop loop(config_, &*tokenizer_, MaxTokens(3));
  for (int i = 0; i < 3; ++i) {
    ASSERT_FALSE(loop.finished());
    EXPECT_TRUE(loop.Next(For(40 + i), {}).is_text);
  }
  EXPECT_TRUE(loop.finished());
  EXPECT_EQ(loop.finish(), FinishReason::kMaxTokens);
  TokenLoop none(config_, &*tokenizer_, MaxTokens(0));
  EXPECT_TRUE(none.finished()) << "from the start";
  EXPECT_EQ(none.finish(), FinishReason::kMaxTokens);
  EXPECT_EQ(none.Flush(), "");
}

TEST_F(TokenLoopTest, EndsWithOneOfItsEnds) {
  config_.eos_ids = {7, 9};
  GenerateOptions options;
  options.stop_ids = {11};
  for (const int32_t end : {7, 9, 11}) {
    TokenLoop loop(config_, &*tokenizer_, options);
    EXPECT_TRUE(loop.Next(For(8), {}).is_text);
    EXPECT_FALSE(loop.finished());
    EXPECT_EQ(loop.finish(), FinishReason::kCancelled) << "until it has finished";
    const TokenLoop::Step step = loop.Next(For(end), {});
    EXPECT_EQ(step.id, end);
    EXPECT_FALSE(step.is_text);
    EXPECT_EQ(step.piece, "");
    EXPECT_EQ(loop.finish(), FinishReason::kEos);
  }
  options.ignore_eos = true;
  TokenLoop loop(config_, &*tokenizer_, options);
  EXPECT_TRUE(loop.Next(For(7), {}).is_text);
  EXPECT_FALSE(loop.finished());
  EXPECT_FALSE(loop.Next(For(11), {}).is_text) << "a stop id of the options still ends it";
}

TEST_F(TokenLoopTest, TextBeforeAStopTextIsGivenOnce) {
  GenerateOptions options;
  options.stop = {"END"};
  TokenLoop loop(config_, &*tokenizer_, options);
  EXPECT_EQ(Run(&loop, "abc EN END more"), "abc EN ");
  EXPECT_EQ(loop.finish(), FinishReason::kStop);
  EXPECT_EQ(loop.Flush(), "");
  EXPECT_EQ(loop.finish(), FinishReason::kStop);

  options.max_tokens = std::ssize(Ids("abc END"));
  TokenLoop both(config_, &*tokenizer_, options);
  Run(&both, "abc END");
  EXPECT_EQ(both.finish(), FinishReason::kStop) << "the stop string, although this is also the last token";

  options.max_tokens = std::ssize(Ids("abc EN"));
  TokenLoop cut(config_, &*tokenizer_, options);
  const std::string pieces = Run(&cut, "abc EN");
  EXPECT_EQ(pieces, "abc ");
  EXPECT_EQ(cut.finish(), FinishReason::kMaxTokens);
  EXPECT_EQ(cut.Flush(), "EN") << "the text that was held back";
  EXPECT_EQ(cut.finish(), FinishReason::kMaxTokens);
}

TEST_F(TokenLoopTest, HalfACharacterComesOutAtTheEnd) {
  const std::vector<int32_t> ids = Ids("\xf0\x9f\x8c\xb5");
  ASSERT_GT(ids.size(), 1u) << "a character of several tokens";
  GenerateOptions options;
  options.max_tokens = 1;
  TokenLoop loop(config_, &*tokenizer_, options);
  EXPECT_EQ(loop.Next(For(ids[0]), {}).piece, "");
  EXPECT_EQ(loop.Flush(), "\xef\xbf\xbd");
  options.stop = {"\xef\xbf\xbd"};
  TokenLoop stopped(config_, &*tokenizer_, options);
  EXPECT_EQ(stopped.Next(For(ids[0]), {}).piece, "");
  EXPECT_EQ(stopped.finish(), FinishReason::kMaxTokens);
  EXPECT_EQ(stopped.Flush(), "");
  EXPECT_EQ(stopped.finish(), FinishReason::kStop) << "the rest contained the stop string";
}

TEST_F(TokenLoopTest, WithoutATokenizerThereAreTokensOnly) {
  TokenLoop loop(config_, nullptr, MaxTokens(2));
  EXPECT_EQ(loop.Next(For(40), {}).piece, "");
  loop.Stop(FinishReason::kContextFull);
  EXPECT_EQ(loop.finish(), FinishReason::kContextFull);
  EXPECT_EQ(loop.Flush(), "");
}

TEST_F(TokenLoopTest, OptionsAreChecked) {
  EXPECT_TRUE(CheckGenerateOptions(MaxTokens(0), nullptr).ok());
  EXPECT_NE(CheckGenerateOptions(MaxTokens(-1), nullptr).message().find("max_tokens is -1"), std::string::npos);
  GenerateOptions options;
  options.stop = {"x"};
  EXPECT_TRUE(CheckGenerateOptions(options, &*tokenizer_).ok());
  EXPECT_NE(CheckGenerateOptions(options, nullptr).message().find("stop"), std::string::npos);
  options = {};
  options.sampler.temperature = -1;
  EXPECT_NE(CheckGenerateOptions(options, nullptr).message().find("temperature"), std::string::npos);
}

/// Generation with a tiny random model.
class GenerateTest : public TokenLoopTest {
 protected:
  void SetUp() override {
    TokenLoopTest::SetUp();
    backend_ = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
    model_.emplace(Model::Random(TinyConfig(), 0, 5, backend_.get()).value());
    for (int i = 0; i < 40; ++i) prompt_.push_back(i * 7 % 97);
  }
  Session Make(const SessionOptions& options = {}) { return Session::Create(*model_, options).value(); }
  GenerateResult Generated(Session* session, const GenerateOptions& options, const TextCallback& on_text = {}) {
    auto result = Generate(session, *model_, &*tokenizer_, prompt_, options, on_text);
    EXPECT_TRUE(result.ok()) << result.status().message();
    return result.ok() ? *result : GenerateResult{};
  }

  BackendPtr backend_;
  std::optional<Model> model_;
  std::vector<int32_t> prompt_;
};

TEST_F(GenerateTest, PiecesJoinedAreTheTextOfTheTokens) {
  Session session = Make();
  std::string pieces;
  int calls = 0;
  const GenerateResult result = Generated(&session, MaxTokens(20), [&](const std::string& piece) {
    pieces += piece;
    ++calls;
    return true;
  });
  EXPECT_EQ(result.tokens.size(), 20u);
  EXPECT_EQ(result.text, tokenizer_->Decode(result.tokens, SpecialTokens::kNone));
  EXPECT_EQ(pieces, result.text);
  EXPECT_GE(calls, 20);
  EXPECT_LE(calls, 21) << "once per token, and once for the rest";
  EXPECT_GT(result.prefill_seconds, 0);
  EXPECT_GT(result.decode_seconds, 0);
  EXPECT_GE(result.first_token_seconds, result.prefill_seconds);
  EXPECT_LE(result.first_token_seconds, result.prefill_seconds + result.decode_seconds);
}

TEST_F(GenerateTest, ACallbackStopsIt) {
  Session session = Make();
  int calls = 0;
  const GenerateResult result = Generated(&session, MaxTokens(20), [&](const std::string&) { return ++calls < 3; });
  EXPECT_EQ(calls, 3) << "it is not called again";
  EXPECT_EQ(result.finish, FinishReason::kCancelled);
  EXPECT_EQ(result.tokens.size(), 3u);
  EXPECT_EQ(session.len(), 40 + 2) << "the last token was never fed back";
}

TEST_F(GenerateTest, NoTokensAreNoText) {
  Session session = Make();
  const GenerateResult result = Generated(&session, MaxTokens(0), [](const std::string&) { return true; });
  EXPECT_TRUE(result.tokens.empty());
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.finish, FinishReason::kMaxTokens);
  EXPECT_EQ(session.len(), 40);
}

TEST_F(GenerateTest, MemoryThatEndsIsAnError) {
  SessionOptions options;
  options.chunk = 16;
  const MemoryPlan plan = Make(options).plan();
  options.memory_limit = plan.activation_bytes + plan.KvBytes(43);
  Session session = Make(options);
  auto result = Generate(&session, *model_, nullptr, prompt_, MaxTokens(400));
  EXPECT_EQ(result.status().code(), StatusCode::kResourceExhausted) << "the context is not full";
}

TEST(FinishReasons, HaveNames) {
  EXPECT_STREQ(FinishReasonName(FinishReason::kMaxTokens), "length");
  EXPECT_STREQ(FinishReasonName(FinishReason::kEos), "eos");
  EXPECT_STREQ(FinishReasonName(FinishReason::kStop), "stop");
  EXPECT_STREQ(FinishReasonName(FinishReason::kContextFull), "context");
  EXPECT_STREQ(FinishReasonName(FinishReason::kCancelled), "cancelled");
}

}  // namespace
}  // namespace duo
