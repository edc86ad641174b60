#include "text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/regex_translate.h"

namespace duo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> Matches(std::string_view pattern, std::string_view text) {
  const Result<Regex> regex = Regex::Compile(pattern, "test");
  EXPECT_TRUE(regex.ok()) << regex.status().message();
  std::vector<ByteRange> ranges;
  if (regex.ok()) regex->FindAll(text, &ranges);
  std::vector<std::string> out;
  for (const ByteRange& range : ranges) out.emplace_back(text.substr(range.begin, range.end - range.begin));
  return out;
}

TEST(Regex, ReadsOnigurumasDialect) {
  EXPECT_THAT(Matches(R"(\s)", "\u180e \u0085"), ElementsAre(" ", "\u0085"));  // U+180E is not white space
  EXPECT_THAT(Matches(R"([^\s]+)", "a\u180e b"), ElementsAre("a\u180e", "b"));
  EXPECT_THAT(Matches(R"(\w+)", "e\u0301x-y"), ElementsAre("e\u0301x", "y"));  // marks are word characters
  EXPECT_THAT(Matches(R"(a{,2})", "aaa"), ElementsAre("aa", "a"));
  EXPECT_THAT(Matches(R"(^b)", "a\nb"), ElementsAre("b"));
  EXPECT_THAT(Matches(R"((?i:'s|'k))", "'S'\u017f'\u212a"), ElementsAre("'S", "'\u017f", "'\u212a"));
  EXPECT_THAT(Matches(R"(\p{Han}+)", "a漢字b。"), ElementsAre("漢字"));
  EXPECT_THAT(Matches(R"(\p{L}++|\p{N}{1,3}?)", "ab12"), ElementsAre("ab", "1", "2"));
  EXPECT_THAT(Matches(R"(\u0041|\x42|\x{43})", "ABCD"), ElementsAre("A", "B", "C"));
}

TEST(Regex, ReportsEmptyMatchesOncePerPosition) {
  EXPECT_THAT(Matches("b*", "abc"), ElementsAre("", "b", ""));
  EXPECT_THAT(Matches("x?", ""), ElementsAre());
}

TEST(Regex, RefusesWhatWouldMeanSomethingElse) {
  for (const char* pattern :
       {R"(a{2}+)", R"(a{2}?)", R"(\h)",   R"(\R)", R"(\K)",        R"(\bx)",  "[a&&b]", "[a[bc]]", "[[:alpha:]]",
        "a(?i)b",   "(?m:.)",   "(?<n>a)", "(?#c)", R"(\p{Alpha})", R"(\pL)",  "a{",     "[a",      R"([\W])",
        "\\",       "(",        ")",       "a**b(", R"(\xff)",      R"(\u12)", "[]a]",   R"(\1)",   R"(\p{NoSuch})"}) {
    const Result<Regex> regex = Regex::Compile(pattern, "file: pattern");
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_EQ(regex.status().code(), StatusCode::kUnsupported);
    EXPECT_THAT(regex.status().message(), HasSubstr("file: pattern: regex "));
  }
  EXPECT_FALSE(Regex::Compile(std::string(100000, 'a'), "test").ok());
}

TEST(Regex, ARunLongerThanPcresOwnMatchLimitMatchesWhole) {
  constexpr std::string_view kLlama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  for (const char c : {' ', 'a', '\n', '!'}) {
    const std::string text(12'000'000, c);
    const auto matches = Matches(kLlama3, text);
    ASSERT_EQ(matches.size(), 1u) << c;
    EXPECT_EQ(matches[0].size(), text.size());
  }
}

TEST(Regex, ACatastrophicPatternEnds) {
  // Takes exponential time without a limit. The limit stops it, and the unmatched rest stays one piece.
  EXPECT_THAT(Matches(R"((?:a|aa)+(?=b))", std::string(60, 'a')), ElementsAre());
}

}  // namespace
}  // namespace duo
