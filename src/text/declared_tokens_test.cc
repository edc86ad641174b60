// Tests of tokens from tokenizer_config.json. The ids and texts are those of transformers 5.24 with tokenizers 0.23.3
// for the same files.
#include "text/declared_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "base/temp_dir_for_test.h"
#include "duo/tokenizer.h"
#include "text/tokenizer_for_test.h"

namespace duo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kByteLevel[] = R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"x":3,"y":4,"\u0120":5,"<":6,
  ">":7,"s":8,"t":9,"1":10,"2":11,"|":12},"merges":["a b"]},
  "added_tokens":[{"id":13,"content":"<s>","special":true,"normalized":false}],
  "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"}})";

class DeclaredTokens : public testing::Test {
 protected:
  Tokenizer Open(const std::string& config) {
    dir_.Write("tokenizer.json", kByteLevel);
    dir_.Write("tokenizer_config.json", config);
    Result<Tokenizer> opened = Tokenizer::Open(dir_.path());
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    return std::move(*opened);
  }
  static std::string Flags(bool special) {
    return std::string(R"("lstrip":false,"rstrip":false,"single_word":false,"normalized":false,"special":)") +
           (special ? "true" : "false");
  }
  TempDir dir_;
};

TEST_F(DeclaredTokens, OfTheDecoderTableAloneAreTokens) {
  const Tokenizer tokenizer =
      Open(R"({"added_tokens_decoder":{"13":{"content":"<s>",)" + Flags(true) + R"(},"14":{"content":"<t1>",)" +
           Flags(true) + R"(},"15":{"content":"<t2>",)" + Flags(false) + "}}}");
  EXPECT_THAT(tokenizer.Encode("a<t1>b<t2>"), ElementsAre(0, 14, 1, 15));
  EXPECT_THAT(tokenizer.Encode("<s>a"), ElementsAre(13, 0));
  EXPECT_EQ(tokenizer.Decode({0, 14, 1, 15}), "a<t1>b<t2>");
  EXPECT_EQ(tokenizer.Decode({0, 14, 1, 15}, SpecialTokens::kNone), "ab<t2>");
  EXPECT_EQ(tokenizer.vocab_size(), 16);
}

TEST_F(DeclaredTokens, TakeTheNextFreeIdsInTheOrderOfTheirKeys) {
  const Tokenizer tokenizer = Open(R"({"added_tokens_decoder":{"20":{"content":"<t1>",)" + Flags(true) +
                                   R"(},"17":{"content":"<t2>",)" + Flags(false) + "}}}");
  EXPECT_THAT(tokenizer.Encode("a<t1>b<t2>"), ElementsAre(0, 15, 1, 14));
}

TEST_F(DeclaredTokens, AdditionalSpecialTokensComeLast) {
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const Tokenizer tokenizer =
        Open(R"({"eos_token":"<t1>",")" + std::string(key) +
             R"(":["<t2>","<s>"],"added_tokens_decoder":{"14":{"content":"<t1>",)" + Flags(true) + "}}}");
    EXPECT_THAT(tokenizer.Encode("a<t1>b<t2><s>"), ElementsAre(0, 14, 1, 15, 13)) << key;
    EXPECT_EQ(tokenizer.eos_id(), 14);
    EXPECT_TRUE(tokenizer.IsSpecial(15));
  }
  const Tokenizer named = Open(R"({"extra_special_tokens":{"image_token":"<t1>"}})");
  EXPECT_THAT(named.Encode("a<t1>b<t2><s>"), ElementsAre(0, 14, 1, 6, 9, 11, 7, 13));
}

TEST_F(DeclaredTokens, OfTheVocabularyKeepTheirIdsThere) {
  const Tokenizer tokenizer = Open(R"({"additional_special_tokens":["ab"]})");
  EXPECT_THAT(tokenizer.Encode("aab"), ElementsAre(0, 2));
  EXPECT_EQ(tokenizer.Decode({0, 2}, SpecialTokens::kNone), "a");
  EXPECT_EQ(tokenizer.vocab_size(), 14);
}

TEST_F(DeclaredTokens, TheConfigsFlagsCount) {
  const Tokenizer tokenizer =
      Open(R"({"added_tokens_decoder":{"99":{"content":"<s>","lstrip":true,"rstrip":true,"special":false}}})");
  EXPECT_THAT(tokenizer.Encode("a <s> b"), ElementsAre(0, 13, 1));
  EXPECT_EQ(tokenizer.Decode({0, 13, 1}, SpecialTokens::kNone), "ab") << "once special, always special";
}

TEST_F(DeclaredTokens, MistakesNameTheKey) {
  const auto message = [&](const std::string& config) {
    dir_.Write("tokenizer.json", kByteLevel);
    dir_.Write("tokenizer_config.json", config);
    const Result<Tokenizer> opened = Tokenizer::Open(dir_.path());
    return opened.ok() ? std::string("opened") : opened.status().message();
  };
  EXPECT_THAT(message(R"({"additional_special_tokens":5})"),
              HasSubstr("tokenizer_config.json: additional_special_tokens: expected an array"));
  EXPECT_THAT(message(R"({"additional_special_tokens":[5]})"), HasSubstr("additional_special_tokens: content"));
  EXPECT_EQ(message(R"({"additional_special_tokens":[""]})"), "opened");
}

TEST_F(DeclaredTokens, OfASentencePieceModelKeepTheirIds) {
  const std::string model = ReadFile(StyleDir("sentencepiece") + "/tokenizer.model", size_t{1} << 24).value();
  dir_.Write("tokenizer.model", model);
  dir_.Write("tokenizer_config.json", R"({"additional_special_tokens":["<x>","<pad>"],
      "added_tokens_decoder":{"905":{"content":"<pad>","special":true}}})");
  const Result<Tokenizer> tokenizer = Tokenizer::Open(dir_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(tokenizer->TokenId("<pad>"), 905);
  EXPECT_THAT(tokenizer->Encode("<pad><x>", SpecialTokens::kNone), ElementsAre(905, 906));
}

constexpr char kPrependedSpace[] = R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"\u2581":3,"x":4,"y":5,"\n":6,
  " ":7,"\u2581a":8,"<v>":9},"merges":["a b","\u2581 a"]},
  "added_tokens":[{"id":9,"content":"<v>","normalized":true},{"id":10,"content":"Bar","normalized":true},
    {"id":11,"content":"Qux","normalized":false}],
  "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},
    {"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]},
  "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},"content":" "},
    {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}})";

TEST_F(DeclaredTokens, NormalizedTokensAreDecodedAsTheyStandInTheText) {
  dir_.Write("tokenizer.json", kPrependedSpace);
  const Result<Tokenizer> tokenizer = Tokenizer::Open(dir_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_THAT(tokenizer->Encode("a Bar"), ElementsAre(8, 10));
  EXPECT_EQ(tokenizer->Decode({8, 10}), "a Bar");
  EXPECT_EQ(tokenizer->Decode({0, 10, 0}), "a Bara");
  EXPECT_EQ(tokenizer->Decode({0, 9, 0}), "a <v>a") << "a token of the vocabulary too";
  EXPECT_EQ(tokenizer->Decode({0, 11, 0}), "aQuxa");
  EXPECT_EQ(tokenizer->Decode({10}), "Bar");
  EXPECT_EQ(tokenizer->TokenId("Bar"), 10) << "found by the text that the file gives it";
}

}  // namespace
}  // namespace duo
