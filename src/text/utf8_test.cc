#include "text/utf8.h"

#include <gtest/gtest.h>

#include <vector>

#include "text/unicode_normal_form.h"

namespace duo {
namespace {

std::string Repaired(std::string_view bytes) {
  std::string out;
  AppendReplacingInvalid(bytes, &out);
  return out;
}

TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r(kReplacementUtf8);
  EXPECT_EQ(Repaired("plain ascii, longer than eight bytes"), "plain ascii, longer than eight bytes");
  EXPECT_EQ(Repaired("a\xC3"), "a" + r);
  EXPECT_EQ(Repaired("\xE4\xBDx"), r + "x");       // one for the truncated character
  EXPECT_EQ(Repaired("\xED\xA0\x80"), r + r + r);  // surrogate: no byte begins a character
  EXPECT_EQ(Repaired("\xC0\xAF"), r + r);          // overlong
  EXPECT_EQ(Repaired("\xF0\x9F\x98\xF0\x9F\x98\x80"), r + "\xF0\x9F\x98\x80");
  EXPECT_EQ(Repaired("\xF4\x90\x80\x80"), r + r + r + r);  // above U+10FFFF
}

TEST(Utf8, EveryCodePointComesBack) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Step step = NextUtf8(text, 0);
    ASSERT_TRUE(step.valid) << c;
    ASSERT_EQ(step.code_point, c);
    ASSERT_EQ(step.n_bytes, text.size());
  }
}

TEST(Utf8, DecidedPrefixHoldsBackOnlyAnUnfinishedCharacter) {
  EXPECT_EQ(DecidedPrefix(""), 0u);
  EXPECT_EQ(DecidedPrefix("ab"), 2u);
  EXPECT_EQ(DecidedPrefix("a\xF0\x9F\x98"), 1u);
  EXPECT_EQ(DecidedPrefix("a\xF0\x9F\x98\x80"), 5u);
  EXPECT_EQ(DecidedPrefix("\x80\x80\x80\x80"), 4u);
  EXPECT_EQ(DecidedPrefix("a\xC0"), 2u);     // never valid
  EXPECT_EQ(DecidedPrefix("\xE0\x80"), 2u);  // overlong: already known to be invalid
}

TEST(Utf8, GoesBackCharacterByCharacter) {
  const std::string text = "a\u00e9\u2003\U0001f600";
  std::vector<size_t> begins;
  for (size_t end = text.size(); end > 0;) begins.push_back(end = PreviousUtf8(text, end));
  EXPECT_EQ(begins, (std::vector<size_t>{6, 3, 1, 0}));
}

TEST(Utf8, TrimsBlankCharactersOfOneEnd) {
  EXPECT_EQ(TrimStartIf(" \u2003 a b \u2003", IsWhiteSpace), "a b \u2003");
  EXPECT_EQ(TrimEndIf(" \u2003a b\u2003 ", IsWhiteSpace), " \u2003a b");
  EXPECT_EQ(TrimStartIf(" \u2003", IsWhiteSpace), "");
  EXPECT_EQ(TrimEndIf(" \u2003", IsWhiteSpace), "");
  EXPECT_EQ(TrimEndIf("a \x80", IsWhiteSpace), "a \x80") << "a stray byte is not blank";
  EXPECT_EQ(TrimEndIf("a \xE2\x80", IsWhiteSpace), "a \xE2\x80") << "the beginning of a character is not blank";
}

TEST(NormalForm, ComposesDecomposesAndOrdersMarks) {
  EXPECT_EQ(ToNormalForm("e\u0301", NormalForm::kNfc), "\u00e9");
  EXPECT_EQ(ToNormalForm("\u00e9", NormalForm::kNfd), "e\u0301");
  EXPECT_EQ(ToNormalForm("q\u0307\u0323", NormalForm::kNfc), "q\u0323\u0307");
  EXPECT_EQ(ToNormalForm("\ufb01\u00b2", NormalForm::kNfkc), "fi2");
  EXPECT_EQ(ToNormalForm("\u1100\u1161\u11a8", NormalForm::kNfc), "\uac01");
}

TEST(NormalForm, ALongRunOfMarksFinishes) {
  std::string text = "a";
  for (int i = 0; i < 200000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0316";
  const std::string ordered = ToNormalForm(text, NormalForm::kNfd);
  EXPECT_EQ(ordered.size(), text.size());
  EXPECT_EQ(ordered.substr(1, 4), "\u0316\u0316");  // class 220 before class 230
}

}  // namespace
}  // namespace duo
