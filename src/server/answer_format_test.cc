#include "server/answer_format.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/data_for_test.h"

namespace duo {
namespace {

class AnswerFormatTest : public ::testing::Test {
 protected:
  int32_t Id(const std::string& text) const { return tokenizer_.Encode(text, SpecialTokens::kNone).at(0); }

  const Tokenizer tokenizer_ = Tokenizer::Open(SourceDir() + "/tests/data/tokenizers/gpt2").value();
  const TokenTexts texts_ = TokenTexts(&tokenizer_);
  const AnswerFormat& text_ = FormatOf(CompletionKind::kText);
  const AnswerFormat& chat_ = FormatOf(CompletionKind::kChat);
};

TEST_F(AnswerFormatTest, ATextIsOneMember) {
  EXPECT_EQ(text_.WholeText("a").dump(), R"({"text":"a"})");
  EXPECT_EQ(text_.BeginOfText(), nullptr);
  EXPECT_EQ(text_.NewText("a").dump(), R"({"text":"a"})");
  EXPECT_EQ(text_.EndOfText().dump(), R"({"text":""})");
}

TEST_F(AnswerFormatTest, AChatBeginsWithItsRole) {
  EXPECT_EQ(chat_.WholeText("a").dump(), R"({"message":{"content":"a","refusal":null,"role":"assistant"}})");
  EXPECT_EQ(chat_.BeginOfText().dump(), R"({"delta":{"content":"","role":"assistant"}})");
  EXPECT_EQ(chat_.NewText("a").dump(), R"({"delta":{"content":"a"}})");
  EXPECT_EQ(chat_.EndOfText().dump(), R"({"delta":{}})");
}

TEST_F(AnswerFormatTest, LogProbsOfATextAreColumns) {
  const int32_t a = Id(" a"), b = Id(" b");
  const std::vector<ScoredToken> tokens = {
      {.text = "x", .offset = 0, .log_probs = std::nullopt},
      {.text = " a", .offset = 1, .log_probs = LogProbs{.chosen = {a, -1}, .top = {{a, -1}, {b, -2}, {a, -3}}}}};
  EXPECT_EQ(text_.LogProbsJson(tokens, texts_), Json::parse(R"({"tokens":["x"," a"],"token_logprobs":[null,-1.0],
      "top_logprobs":[null,{" a":-1.0," b":-2.0}],"text_offset":[0,1]})"))
      << "the likelier of two tokens with the same text";
  EXPECT_EQ(text_.LogProbsJson({}, texts_)["tokens"].dump(), "[]");
}

TEST_F(AnswerFormatTest, LogProbsOfAChatAreRows) {
  const int32_t a = Id(" a"), b = Id(" b");
  const std::vector<ScoredToken> tokens = {
      {.text = "x", .offset = 0, .log_probs = std::nullopt},
      {.text = " a", .offset = 1, .log_probs = LogProbs{.chosen = {a, -1}, .top = {{b, -0.5}}}}};
  EXPECT_EQ(chat_.LogProbsJson(tokens, texts_), Json::parse(R"({"refusal":null,"content":[
      {"token":" a","logprob":-1.0,"bytes":[32,97],
       "top_logprobs":[{"token":" b","logprob":-0.5,"bytes":[32,98]}]}]})"));
  EXPECT_EQ(chat_.LogProbsJson({}, texts_).dump(), R"({"content":[],"refusal":null})");
}

}  // namespace
}  // namespace duo
