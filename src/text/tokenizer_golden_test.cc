// Compares every tokenizer of tests/data/tokenizers with the reference library's results for the same texts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "duo/tokenizer.h"
#include "text/tokenizer_for_test.h"
#include "text/utf8.h"

namespace duo {
namespace {

constexpr size_t kMaxGoldenBytes = size_t{64} << 20;

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

Json ReadGolden(const std::string& style) {
  Result<std::string> text = ReadFile(StyleDir(style) + "/cases.json", kMaxGoldenBytes);
  EXPECT_TRUE(text.ok()) << text.status().message();
  return Json::parse(text.ok() ? *text : "{}");
}

// Decodes the text piece by piece; every piece must have whole characters.
std::string DecodeInSteps(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, SpecialTokens special) {
  StreamDecoder decoder(tokenizer, special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = decoder.Push(id);
    EXPECT_TRUE(IsValidUtf8(piece));
    text += piece;
  }
  return text + decoder.Flush();
}

class TokenizerGolden : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    golden_ = ReadGolden(GetParam());
    Result<Tokenizer> opened = Tokenizer::Open(StyleDir(GetParam()));
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    tokenizer_ = std::make_unique<Tokenizer>(std::move(*opened));
  }
  Json golden_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerGolden, EncodesAsTheReference) {
  ASSERT_GT(golden_.at("cases").size(), 100u);
  for (const Json& golden : golden_.at("cases")) {
    const std::string text = FromHex(golden.at("hex"));
    EXPECT_EQ(tokenizer_->Encode(text), golden.at("ids").get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(tokenizer_->Encode(text, SpecialTokens::kNone), golden.at("plain_ids").get<std::vector<int32_t>>())
        << text;
  }
}

TEST_P(TokenizerGolden, PrefixAndSuffixAreAroundEveryText) {
  for (const char* text : {"", "a", "two words"}) {
    std::vector<int32_t> ids = tokenizer_->prefix();
    for (const int32_t id : tokenizer_->Encode(text, SpecialTokens::kNone)) ids.push_back(id);
    ids.insert(ids.end(), tokenizer_->suffix().begin(), tokenizer_->suffix().end());
    EXPECT_EQ(tokenizer_->Encode(text), ids) << text;
  }
}

TEST_P(TokenizerGolden, DecodesAsTheReference) {
  std::vector<Json> all = golden_.at("cases");
  if (golden_.contains("decode_only")) {
    const std::vector<Json> more = golden_.at("decode_only");
    all.insert(all.end(), more.begin(), more.end());
  }
  for (const Json& golden : all) {
    const auto ids = golden.at("ids").get<std::vector<int32_t>>();
    const std::string plain = golden.at("plain_text");
    EXPECT_EQ(tokenizer_->Decode(ids, SpecialTokens::kNone), plain);
    EXPECT_EQ(DecodeInSteps(*tokenizer_, ids, SpecialTokens::kNone), plain);
    if (!golden.contains("text")) continue;
    const std::string with_special = golden.at("text");
    EXPECT_EQ(tokenizer_->Decode(ids, SpecialTokens::kAdd), with_special);
    EXPECT_EQ(DecodeInSteps(*tokenizer_, ids, SpecialTokens::kAdd), with_special);
  }
}

TEST_P(TokenizerGolden, ComesBackUnchangedWhereTheReferenceDoes) {
  size_t n_unchanged = 0;
  for (const Json& golden : golden_.at("cases")) {
    const std::string text = FromHex(golden.at("hex"));
    if (golden.at("plain_text") != text) continue;
    ++n_unchanged;
    EXPECT_EQ(tokenizer_->Decode(tokenizer_->Encode(text), SpecialTokens::kNone), text);
  }
  EXPECT_GT(n_unchanged, 10u);
}

TEST_P(TokenizerGolden, RendersChatsAsTheModelsOwnTemplate) {
  if (!golden_.contains("chats") || golden_.at("chats").empty()) {
    EXPECT_FALSE(golden_.contains("chats") && !tokenizer_->chat_template().empty());
    return;
  }
  const Result<ChatTemplate> chat = ChatTemplate::Recognise(*tokenizer_);
  ASSERT_TRUE(chat.ok()) << chat.status().message();
  for (const Json& golden : golden_.at("chats")) {
    std::vector<ChatMessage> messages;
    for (const Json& message : golden.at("messages")) {
      const std::string role = message.at(0);
      messages.push_back({role == "system" ? ChatMessage::Role::kSystem
                          : role == "user" ? ChatMessage::Role::kUser
                                           : ChatMessage::Role::kAssistant,
                          message.at(1)});
    }
    const auto ids = chat->Render(*tokenizer_, messages);
    ASSERT_TRUE(ids.ok()) << ids.status().message();
    EXPECT_EQ(*ids, golden.at("ids").get<std::vector<int32_t>>()) << tokenizer_->Decode(*ids);
  }
}

INSTANTIATE_TEST_SUITE_P(Styles, TokenizerGolden,
                         testing::Values("llama3", "qwen2", "gpt2", "o200k", "split_mix", "llama2", "mistral",
                                         "metaspace", "sentencepiece"),
                         [](const testing::TestParamInfo<const char*>& style) { return std::string(style.param); });

}  // namespace
}  // namespace duo
