// SentencePiece models: bad input, the ends that are added, and which pieces are special.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "text/limits.h"
#include "text/sentencepiece_file.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_for_test.h"
#include "text/tokenizer_impl.h"

namespace duo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(SentencePiece, BrokenModelsAreErrors) {
  const std::string whole = StyleFile("sentencepiece", "tokenizer.model");
  ASSERT_TRUE(ParseSentencePiece(whole, "m", {}).ok());
  EXPECT_EQ(ParseSentencePiece("", "m", {}).status().code(), StatusCode::kCorrupt);
  EXPECT_THAT(ParseSentencePiece("{\"json\": 1}", "m", {}).status().message(),
              HasSubstr("m: not a SentencePiece model"));
  for (size_t n = 1; n < whole.size(); n += 211) {
    const auto parsed = ParseSentencePiece(std::string_view(whole).substr(0, n), "m", {});
    EXPECT_TRUE(parsed.ok() || parsed.status().message().compare(0, 3, "m: ") == 0) << parsed.status().message();
  }
}

TEST(SentencePiece, TheConfigSaysWhichEndsAreAdded) {
  const std::string bytes = StyleFile("sentencepiece", "tokenizer.model");
  TokenizerConfig config;
  auto parsed = ParseSentencePiece(bytes, "m", config);
  ASSERT_TRUE(parsed.ok());
  EXPECT_THAT(Tokenizer::Impl::Wrap(std::move(*parsed)).Encode(""), ElementsAre(1));
  config.add_bos_token = false;
  config.add_eos_token = true;
  parsed = ParseSentencePiece(bytes, "m", config);
  ASSERT_TRUE(parsed.ok());
  EXPECT_THAT(Tokenizer::Impl::Wrap(std::move(*parsed)).Encode(""), ElementsAre(2));
}

TEST(SentencePiece, WordsStandForThemselvesOnlyWhereASpaceIsAPiece) {
  std::string bytes = StyleFile("sentencepiece", "tokenizer.model");
  EXPECT_TRUE(CheckSentencePieceFile(bytes, "m").value().words_are_independent);
  const size_t piece = bytes.find("\x0A\x03\xE2\x96\x81");  // field 1, three bytes: U+2581
  ASSERT_NE(piece, std::string::npos);
  bytes[piece + 4] = '\x82';
  EXPECT_FALSE(CheckSentencePieceFile(bytes, "m").value().words_are_independent);
}

TEST(SentencePiece, ControlPiecesAreSpecial) {
  auto parsed = ParseSentencePiece(StyleFile("sentencepiece", "tokenizer.model"), "m", {});
  ASSERT_TRUE(parsed.ok());
  const Tokenizer tokenizer = Tokenizer::Impl::Wrap(std::move(*parsed));
  EXPECT_TRUE(tokenizer.IsSpecial(tokenizer.bos_id()));
  EXPECT_EQ(tokenizer.Decode({tokenizer.bos_id()}, SpecialTokens::kNone), "");
  const std::vector<int32_t> ids = tokenizer.Encode("word", SpecialTokens::kNone);
  EXPECT_FALSE(tokenizer.IsSpecial(ids.back()));
}

/// A field of a protobuf message that holds bytes.
std::string Field(char tag, const std::string& content) {
  std::string length;
  for (size_t n = content.size(); n != 0; n >>= 7) length += static_cast<char>((n & 0x7F) | (n >= 0x80 ? 0x80 : 0));
  return tag + length + content;
}

TEST(SentencePiece, CharsmapsStayInsideTheirTable) {
  const auto status = [](const std::vector<uint32_t>& units, const std::string& strings, uint32_t more_bytes = 0) {
    std::vector<uint32_t> words = {static_cast<uint32_t>(units.size() * sizeof(uint32_t)) + more_bytes};
    words.insert(words.end(), units.begin(), units.end());
    const std::string blob =
        std::string(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(uint32_t)) + strings;
    const std::string normalizer = Field('\x1A', Field('\x12', blob));  // normalizer_spec, precompiled_charsmap
    return CheckSentencePieceFile(StyleFile("sentencepiece", "tokenizer.model") + normalizer, "m").status();
  };
  const std::string strings("ab\0", 3);
  std::vector<uint32_t> units(256, 0x80000000);  // values, which are not followed
  EXPECT_TRUE(status(units, strings).ok()) << status(units, strings).message();
  EXPECT_THAT(status(units, "ab").message(), HasSubstr("precompiled_charsmap")) << "the last string does not end";
  EXPECT_FALSE(status(units, "").ok());
  EXPECT_FALSE(status(units, strings, 2).ok()) << "half a unit";
  EXPECT_FALSE(status(units, strings, 4).ok()) << "more units than there are bytes";
  units[7] = uint32_t{256 ^ 7} << 10;
  EXPECT_FALSE(status(units, strings).ok()) << "a link past the end";
  units[7] = (1 << 8) | (uint32_t{7} << 10);  // with a leaf, at 7 ^ 7 = 0: a place among the strings
  units[0] = 0x80000000 | 3;
  EXPECT_FALSE(status(units, strings).ok()) << "a value past the last string";
  units[0] = 0x80000000 | 2;
  EXPECT_TRUE(status(units, strings).ok()) << status(units, strings).message();
}

TEST(SentencePiece, ControlPiecesAreBounded) {
  const std::string text(text_limits::kMaxAddedTokenBytes + 1, 'c');
  const std::string control = Field('\x0A', text) + "\x18\x03";
  // piece, type = CONTROL
  const auto parsed =
      ParseSentencePiece(StyleFile("sentencepiece", "tokenizer.model") + Field('\x0A', control), "m", {});
  EXPECT_EQ(parsed.status().code(), StatusCode::kUnsupported);
  EXPECT_THAT(parsed.status().message(), HasSubstr("m: a token of 1025 bytes"));
}

}  // namespace
}  // namespace duo
