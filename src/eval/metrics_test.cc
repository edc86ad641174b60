#include "eval/metrics.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

TEST(NormalizeAnswer, ByHand) {
  EXPECT_EQ(NormalizeAnswer("  The Quick, brown fox's  DEN. "), "quick brown foxs den");
  EXPECT_EQ(NormalizeAnswer("a an the"), "");
  EXPECT_EQ(NormalizeAnswer("Athens an-other"), "athens another");
  EXPECT_EQ(NormalizeAnswer("ÉCOLE\u00a0Über"), "école über");
  EXPECT_EQ(NormalizeAnswer(""), "");
}

TEST(QaF1, ByHand) {
  EXPECT_EQ(QaF1("the cat", "cat"), 1);
  // 2 of 3 predicted words, 2 of 4 wanted ones.
  EXPECT_DOUBLE_EQ(QaF1("red green blue", "red green dark yellow"), 2 * (2.0 / 3) * 0.5 / (2.0 / 3 + 0.5));
  EXPECT_DOUBLE_EQ(QaF1("yes yes yes", "yes"), 0.5);  // a word counts at most as often as the answer has it
  EXPECT_EQ(QaF1("", "cat"), 0);
  EXPECT_EQ(QaF1("cat", ""), 0);
  EXPECT_EQ(QaF1("...", "the"), 0);
  EXPECT_EQ(QaF1("dog", "cat"), 0);
}

TEST(QaF1ByCharacter, ByHand) {
  EXPECT_EQ(QaF1ByCharacter("北京。", "北京"), 1);
  EXPECT_DOUBLE_EQ(QaF1ByCharacter("在北京", "北京市"), 2.0 / 3);
  EXPECT_EQ(QaF1ByCharacter("！？", "北京"), 0);
  EXPECT_EQ(QaF1ByCharacter("ABC", "abc"), 1);
}

TEST(RougeL, ByHand) {
  EXPECT_NEAR(RougeL("the cat sat on the mat", "the cat sat on the mat"), 1, 1e-7);
  // The common subsequence is "police the gunman"; each text has 4 distinct words.
  EXPECT_NEAR(RougeL("police kill the gunman", "police killed the gunman"), 0.75, 1e-7);
  // In another order the longest is "the gunman" or "police": two words of four.
  EXPECT_NEAR(RougeL("the gunman kill police", "police killed the gunman"), 0.5, 1e-7);
  // The first sentence gives w1 w2 and the second w1 w3 w5: four of the reference's five words. The prediction has
  // eight distinct words.
  EXPECT_NEAR(RougeL("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5"), 2 * 0.8 * 0.5 / 1.3, 1e-7);
  EXPECT_EQ(RougeL("", "x"), 0);
  EXPECT_EQ(RougeL("...", "x"), 0);
  EXPECT_EQ(RougeL("x", ""), 0);
  EXPECT_NEAR(RougeL("a a a a", "a"), 1, 1e-7);  // only distinct words count
}

TEST(RougeLByCharacter, ByHand) {
  EXPECT_NEAR(RougeLByCharacter("今天天气", "今天 天气"), 1, 1e-7);
  EXPECT_NEAR(RougeLByCharacter("天今", "今天"), 0.5, 1e-7);
}

TEST(Classification, ByHand) {
  const std::vector<std::string> classes = {"City", "Country", "City name", "Food"};
  EXPECT_EQ(Classification("It is Food.", "Food", classes), 1);
  EXPECT_EQ(Classification("Food or Country", "Food", classes), 0.5);
  EXPECT_EQ(Classification("City name", "City name", classes), 1);  // City is part of the answer's name
  EXPECT_EQ(Classification("City name", "City", classes), 0.5);
  EXPECT_EQ(Classification("food", "Food", classes), 0);  // case counts, as in the original
  EXPECT_EQ(Classification("", "Food", classes), 0);
}

TEST(NumberShare, ByHand) {
  EXPECT_EQ(NumberShare("Paragraph 7", "Paragraph 7"), 1);
  EXPECT_EQ(NumberShare("7, or 8", "Paragraph 7"), 0.5);
  EXPECT_EQ(NumberShare("Paragraph 17", "Paragraph 7"), 0);
  EXPECT_EQ(NumberShare("段落7", "段落7"), 1);
  EXPECT_EQ(NumberShare("seven", "7"), 0);
  EXPECT_EQ(NumberShare("", "7"), 0);
  EXPECT_EQ(NumberShare("7", "none"), 0);
}

TEST(CodeSimilarity, ByHand) {
  EXPECT_EQ(CodeSimilarity("\n\nreturn x;\nmore", "return x;"), 1);
  EXPECT_EQ(CodeSimilarity("# comment\n```\n// another\nreturn x;", "return x;"), 1);
  EXPECT_EQ(CodeSimilarity("abcd", "abxy"), 0.5);  // 2 * 2 / 8
  EXPECT_EQ(CodeSimilarity("abc", "abd"), 0.67);   // 4 / 6
  EXPECT_EQ(CodeSimilarity("", "x"), 0);
  EXPECT_EQ(CodeSimilarity("# all\n# comments", "x"), 0);
  EXPECT_EQ(CodeSimilarity("# c\n\nreturn", "return"), 0);  // a blank line is a line, as in the original
  EXPECT_EQ(CodeSimilarity("é", "e"), 0);
}

TEST(ChosenLetter, ByHand) {
  EXPECT_EQ(ChosenLetter("The correct answer is (B)."), 'B');
  EXPECT_EQ(ChosenLetter("**The correct answer is C**"), 'C');
  EXPECT_EQ(ChosenLetter("The correct answer is (E)"), 0);
  EXPECT_EQ(ChosenLetter("The correct answer is (insert): The correct answer is (D)"), 'D');
  EXPECT_EQ(ChosenLetter("B"), 0);
  EXPECT_EQ(ChosenLetter("The correct answer is "), 0);
  EXPECT_EQ(ChosenLetter(""), 0);
}

}  // namespace
}  // namespace duo
