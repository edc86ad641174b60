// Tests of text of any length, from a file or generated.
#include "eval/text_source.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "base/data_for_test.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

class TextSourceTest : public testing::Test {
 protected:
  TextSource Of(const std::string& text) {
    dir_.Write("text.txt", text);
    return TextSource::Open(dir_.file("text.txt")).value();
  }
  int64_t Tokens(const std::string& text) const { return static_cast<int64_t>(tokenizer_.Encode(text).size()); }

  TempDir dir_;
  Tokenizer tokenizer_ = Tokenizer::Open(SourceDir() + "/models/demo").value();
};

TEST_F(TextSourceTest, TakesEnoughFromTheBeginning) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "Line " + std::to_string(i) + " of the farmer's book.\n\n";
  const TextSource source = Of(text);
  for (const int64_t n : {1, 50, 500, 2000}) {
    const std::string taken = source.Take(n, 0, tokenizer_).value();
    EXPECT_EQ(text.rfind(taken, 0), 0u) << "a beginning of the text";
    EXPECT_GT(Tokens(taken), n);
    EXPECT_LT(Tokens(taken), 6 * n + 200) << "and not much more";
  }
  EXPECT_EQ(source.Whole(5, tokenizer_).value(), text) << "as it stands";
}

TEST_F(TextSourceTest, TakesFromAParagraphThatTheSeedChooses) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "Line " + std::to_string(i) + " of the farmer's book.\n\n";
  const TextSource source = Of(text);
  std::set<std::string> beginnings;
  for (uint64_t seed = 1; seed < 10; ++seed) {
    const std::string taken = source.Take(50, seed, tokenizer_).value();
    EXPECT_EQ(taken, source.Take(50, seed, tokenizer_).value());
    EXPECT_EQ(taken.rfind("Line ", 0), 0u) << taken;
    EXPECT_GT(Tokens(taken), 50);
    beginnings.insert(taken.substr(0, 8));
  }
  EXPECT_GT(beginnings.size(), 5u);
}

TEST_F(TextSourceTest, ShortTextsComeAgain) {
  const TextSource source = Of("A short text.");
  const std::string taken = source.Take(100, 0, tokenizer_).value();
  EXPECT_EQ(taken.rfind("A short text.\n\nA short text.\n\nA short", 0), 0u) << taken;
  EXPECT_GT(Tokens(taken), 100);
  EXPECT_GT(Tokens(source.Take(100, 7, tokenizer_).value()), 100) << "one without paragraphs, from its beginning";
}

TEST_F(TextSourceTest, CharactersStayWhole) {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "日本語";
  const TextSource source = Of(text);
  for (int64_t n = 1; n < 12; ++n) {
    const std::string taken = source.Take(n, 0, tokenizer_).value();
    EXPECT_EQ(taken.size() % 3, 0u) << n;
    EXPECT_EQ(text.rfind(taken, 0), 0u);
  }
}

TEST_F(TextSourceTest, MadeUpTextIsOfTheBookAlone) {
  const TextSource source = TextSource::Open("builtin").value();
  for (const int64_t n : {10, 1000, 5000}) {
    const std::string text = source.Take(n, 3, tokenizer_).value();
    EXPECT_GE(Tokens(text), n);
    EXPECT_LT(Tokens(text), n + n / 50 + 400);
    EXPECT_EQ(text.find("book>"), std::string::npos) << "without the frame";
    EXPECT_EQ(text.back(), '.');
    EXPECT_NE(text.front(), ' ');
    EXPECT_NE(text, source.Take(n, 4, tokenizer_).value());
  }
  EXPECT_EQ(source.Whole(800, tokenizer_).value(), source.Take(800, 0, tokenizer_).value());
}

TEST_F(TextSourceTest, IsKnownByItsText) {
  EXPECT_EQ(TextSource::Open("builtin")->identity(), "builtin");
  const std::string a = Of("one text").identity(), b = Of("two text").identity();
  EXPECT_EQ(a.rfind("8 bytes, ", 0), 0u) << a;
  EXPECT_NE(a, b);
  EXPECT_EQ(Of("one text").identity(), a);
  dir_.Write("blank.txt", " \t\r\n\n ");
  EXPECT_EQ(TextSource::Open(dir_.file("blank.txt")).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace duo
