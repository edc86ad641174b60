#include "text/builtin_book.h"

#include <gtest/gtest.h>

#include <set>

namespace duo {
namespace {

/// Counts words, as a stand-in for a tokenizer: every space or newline begins one.
int64_t CountWords(std::string_view text) {
  int64_t n = 1;
  for (const char c : text) n += c == ' ' || c == '\n' ? 1 : 0;
  return n;
}

Book Make(const BookOptions& options) {
  Result<Book> book = MakeBook(options, CountWords);
  EXPECT_TRUE(book.ok()) << book.status().message();
  return book.ok() ? *book : Book{};
}

size_t Occurrences(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(BuiltinBook, IsTheSameForTheSameSeedAndAnotherForAnother) {
  BookOptions options{.n_tokens = 3000};
  const Book a = Make(options), b = Make(options);
  EXPECT_EQ(a.text, b.text);
  ASSERT_EQ(a.facts.size(), b.facts.size());
  for (size_t i = 0; i < a.facts.size(); ++i) EXPECT_EQ(a.facts[i].answer, b.facts[i].answer);
  options.seed = 2;
  EXPECT_NE(Make(options).text, a.text);
}

// Pins the generator: an accidental change would alter the texts on which the documented numbers were measured.
TEST(BuiltinBook, TextOfSeedOneBeginsAndEndsAsItAlwaysDid) {
  const Book book = Make({.n_tokens = 400, .n_facts = 2});
  EXPECT_EQ(book.text.substr(0, 39), "This is a very long story book: <book> ");
  EXPECT_EQ(book.text.substr(book.text.size() - 11), " </book>.\n\n");
  EXPECT_EQ(book.facts[0].needle, "The secret code of Laura is 8965");
  EXPECT_EQ(
      book.facts[1].needle,
      "Remember this sequence of words, it's the first passkey to the vault: november yankee delta golf hotel foxtrot");
}

TEST(BuiltinBook, LengthIsMetWithinOnePercentAndNeverPassed) {
  for (const int64_t target : {1500, 4096, 16384, 200000}) {
    const int64_t n = CountWords(Make({.n_tokens = target}).text);
    EXPECT_LE(n, target);
    EXPECT_GE(n, 0.99 * target);
  }
}

TEST(BuiltinBook, EveryFactStandsOnceAndInOrderAtSpreadDepths) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const Book book = Make({.n_tokens = 4000, .n_facts = 12, .seed = seed});
    ASSERT_EQ(book.facts.size(), 12u);
    double before = 0.0;
    for (size_t i = 0; i < book.facts.size(); ++i) {
      const Fact& fact = book.facts[i];
      EXPECT_EQ(Occurrences(book.text, fact.needle), 1u) << fact.needle;
      EXPECT_EQ(Occurrences(book.text, fact.answer), 1u) << fact.answer;
      EXPECT_GT(fact.depth, before);
      before = fact.depth;
      // The step is 0.9 / 12, with half a step of jitter in all. The text of the facts themselves shifts the depths a
      // little.
      EXPECT_NEAR(fact.depth, 0.05 + 0.9 / 12 * (i + 0.5), 0.05);
    }
  }
}

TEST(BuiltinBook, AnswersAreUniqueAndNotPartOfOneAnother) {
  const Book book = Make({.n_tokens = 20000, .n_facts = 70, .min_digits = 3, .max_digits = 5});
  int n_passkeys = 0;
  std::set<std::string> questions;
  for (const Fact& a : book.facts) {
    n_passkeys += a.kind == FactKind::kPasskey ? 1 : 0;
    questions.insert(a.question);
    for (const Fact& b : book.facts) {
      EXPECT_TRUE(&a == &b || b.answer.find(a.answer) == std::string::npos) << a.answer << " in " << b.answer;
    }
  }
  EXPECT_EQ(n_passkeys, kMaxPasskeys);
  EXPECT_EQ(questions.size(), 70u);
}

TEST(BuiltinBook, FactsAndQuestionsHaveTheTrainedForm) {
  for (const FactKind kind : {FactKind::kPasskey, FactKind::kCode}) {
    const Book book = Make({.n_tokens = 2000, .n_facts = 5, .kinds = {kind}});
    for (const Fact& fact : book.facts) {
      EXPECT_EQ(fact.kind, kind);
      const bool passkey = kind == FactKind::kPasskey;
      EXPECT_EQ(fact.needle.rfind(passkey ? "Remember this sequence of words, it's the " : "The secret code of ", 0),
                0u);
      EXPECT_NE(fact.needle.find(passkey ? " passkey to the vault: " + fact.answer : " is " + fact.answer),
                std::string::npos);
      EXPECT_NE(fact.question.find(passkey ? " passkey to the vault?\nPasskey: " : "?\nAnswer: "), std::string::npos);
      const auto words = CountWords(fact.answer);
      if (passkey) {
        EXPECT_TRUE(words >= 4 && words <= 8) << fact.answer;
      } else {
        EXPECT_TRUE(fact.answer.size() >= 4 && fact.answer.size() <= 6) << fact.answer;
      }
    }
  }
}

TEST(BuiltinBook, NoFactsIsJustProse) { EXPECT_TRUE(Make({.n_tokens = 1000, .n_facts = 0}).facts.empty()); }

TEST(BuiltinBook, RefusesWhatCannotBeWritten) {
  const auto message = [](const BookOptions& options) {
    const Result<Book> book = MakeBook(options, CountWords);
    EXPECT_EQ(book.status().code(), StatusCode::kInvalidArgument);
    return book.status().message();
  };
  EXPECT_NE(message({.n_tokens = 100, .n_facts = 8}).find("8 facts and a little text"), std::string::npos);
  EXPECT_NE(message({.n_tokens = 0}).find("n_tokens is 0"), std::string::npos);
  EXPECT_NE(message({.n_facts = 71}).find("n_facts is 71; expected 0..70"), std::string::npos);
  EXPECT_NE(message({.n_facts = -1}).find("n_facts is -1"), std::string::npos);
  EXPECT_NE(message({.n_facts = 51, .kinds = {FactKind::kCode}}).find("0..50"), std::string::npos);
  EXPECT_NE(message({.n_facts = 1, .kinds = {}}).find("0..0"), std::string::npos);
  EXPECT_NE(message({.depth_begin = 0.9, .depth_end = 0.1}).find("depths"), std::string::npos);
  EXPECT_NE(message({.min_words = 5, .max_words = 27}).find("1 <= min"), std::string::npos);
  EXPECT_NE(message({.min_digits = 0}).find("digits"), std::string::npos);
  EXPECT_NE(
      message({.n_facts = 30, .kinds = {FactKind::kCode}, .min_digits = 1, .max_digits = 1}).find("different answers"),
      std::string::npos);
}

}  // namespace
}  // namespace duo
