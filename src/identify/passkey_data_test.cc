// Tests of training texts with the embedded model's tokenizer.
#include "identify/passkey_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "base/data_for_test.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

using testing::HasSubstr;

class TrainingTextsTest : public testing::Test {
 protected:
  std::string Text(const std::vector<int32_t>& ids) const { return tokenizer.Decode(ids, SpecialTokens::kNone); }
  Tokenizer tokenizer = Tokenizer::Open(SourceDir() + "/models/demo").value();
  static std::string Hay(int sentences) {
    std::string text;
    for (int i = 0; i < sentences; ++i) text += "The farmer grows cow number " + std::to_string(i) + ". ";
    return text;
  }
};

size_t Count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST_F(TrainingTextsTest, HidePasskeysAndAskForThemInOrder) {
  const PasskeyOptions options{.n_passkeys = 4, .n_words = 5, .min_length = 300, .max_length = 900, .n_lengths = 3};
  const TrainingTexts texts = TrainingTexts::InHaystack(tokenizer, options, Hay(2000)).value();
  std::set<int64_t> lengths;
  for (uint64_t index = 0; index < 30; ++index) {
    const TrainingText text = texts.Make(index).value();
    ASSERT_EQ(text.labels.end, std::ssize(text.ids));
    ASSERT_LE(text.labels.end, texts.max_text_tokens());
    const auto split = text.ids.begin() + text.labels.begin;
    const std::string context = Text({text.ids.begin(), split}), asked = Text({split, text.ids.end()});
    EXPECT_EQ(text.ids[0], tokenizer.bos_id());
    size_t last = 0;
    for (const char* ordinal : {"first", "second", "third", "fourth"}) {
      const std::string question = std::string("what is the ") + ordinal + " passkey to the vault?\nPasskey: ";
      const size_t at = asked.find(question);
      ASSERT_NE(at, std::string::npos) << asked;
      EXPECT_GE(at, last);
      last = at;
      const size_t begin = at + question.size(), end = asked.find('\n', begin);
      const std::string words = asked.substr(begin, end - begin);
      EXPECT_EQ(Count(words, " "), 4u) << words;
      EXPECT_NE(words.front(), ' ');
      EXPECT_EQ(Count(context, std::string("the ") + ordinal + " passkey to the vault: " + words + "\n"), 1u);
    }
    EXPECT_EQ(Count(context, "passkey"), 4u);
    // Tokens from the haystack: about 300, 600 or 900. The seams between texts change the number a little.
    const int64_t own = text.labels.begin - 4 * 30;
    lengths.insert((own + 150) / 300);
  }
  EXPECT_EQ(lengths.size(), 3u);
}

TEST_F(TrainingTextsTest, DependOnSeedAndIndexAlone) {
  const PasskeyOptions options{.n_passkeys = 2, .n_words = 3, .min_length = 100, .max_length = 200, .n_lengths = 5};
  const TrainingTexts a = TrainingTexts::InHaystack(tokenizer, options, Hay(500)).value();
  const TrainingTexts b = TrainingTexts::InHaystack(tokenizer, options, Hay(500)).value();
  (void)a.Make(3);
  EXPECT_EQ(a.Make(7)->ids, b.Make(7)->ids);
  EXPECT_NE(a.Make(7)->ids, a.Make(8)->ids);
  PasskeyOptions other = options;
  other.seed = 1;
  EXPECT_NE(TrainingTexts::InHaystack(tokenizer, other, Hay(500))->Make(7)->ids, a.Make(7)->ids);
}

TEST_F(TrainingTextsTest, BuiltinBooksFitTheirLength) {
  const PasskeyOptions options{.n_passkeys = 10, .min_length = 256, .max_length = 1024, .n_lengths = 4};
  const TrainingTexts texts = TrainingTexts::Builtin(tokenizer, options).value();
  for (uint64_t index = 0; index < 20; ++index) {
    const TrainingText text = texts.Make(index).value();
    EXPECT_LE(text.labels.begin, 1024);
    EXPECT_GT(text.labels.begin, 200);
    EXPECT_LE(text.labels.end, texts.max_text_tokens());
    const auto split = text.ids.begin() + text.labels.begin;
    EXPECT_THAT(Text({split, text.ids.end()}), testing::AnyOf(HasSubstr("Passkey: "), HasSubstr("Answer: ")));
  }
}

TEST_F(TrainingTextsTest, BuiltinBooksHaveRoomForAFact) {
  const auto texts = TrainingTexts::Builtin(tokenizer, {.n_passkeys = 2, .min_length = 16, .max_length = 400});
  EXPECT_EQ(texts.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(texts.status().message(), HasSubstr("texts of 16 tokens: "));
}

// Some facts are longer than others. If the length is tight, facts are drawn until they fit, so that no run fails in
// the middle.
TEST_F(TrainingTextsTest, TightBuiltinBooksAreDrawnAgain) {
  int64_t tightest = 16;
  while (!TrainingTexts::Builtin(tokenizer, {.n_passkeys = 1, .min_length = tightest, .max_length = 120}).ok()) {
    ++tightest;
  }
  const PasskeyOptions options{.n_passkeys = 1, .min_length = tightest + 4, .max_length = tightest + 4};
  const TrainingTexts texts = TrainingTexts::Builtin(tokenizer, options).value();
  for (uint64_t index = 0; index < 200; ++index) EXPECT_TRUE(texts.Make(index).ok()) << index;
}

TEST_F(TrainingTextsTest, PasskeysThatDoNotFitTheLongestTextAreRefused) {
  const auto texts = TrainingTexts::Builtin(tokenizer, {.n_passkeys = 20, .min_length = 100, .max_length = 100});
  ASSERT_TRUE(texts.ok());  // texts have as many facts as fit, which is enough for scores
  EXPECT_THAT(texts->CheckPasskeysFit().message(), HasSubstr("20 passkeys in texts of up to 100 tokens: "));
}

TEST_F(TrainingTextsTest, AHaystackMayBeAFile) {
  const PasskeyOptions options{.n_passkeys = 2, .n_words = 3, .min_length = 100, .max_length = 400};
  const TempDir dir;
  dir.Write("hay.txt", Hay(500));
  const TrainingTexts texts = TrainingTexts::InFiles(tokenizer, options, dir.file("hay.txt")).value();
  EXPECT_EQ(texts.haystack(), Hay(500));
  EXPECT_FALSE(texts.truncated());
  EXPECT_EQ(texts.Make(3)->ids, TrainingTexts::InHaystack(tokenizer, options, Hay(500))->Make(3)->ids);
  const Status missing = TrainingTexts::InFiles(tokenizer, options, dir.file("no.txt")).status();
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_EQ(missing.subject(), "text");
}

TEST_F(TrainingTextsTest, AHaystackThatIsTooShortSaysHowLongItMustBe) {
  const PasskeyOptions options{.n_passkeys = 2, .n_words = 3, .min_length = 100, .max_length = 5000};
  const auto texts = TrainingTexts::InHaystack(tokenizer, options, "A short text.");
  EXPECT_EQ(texts.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(texts.status().message(), HasSubstr("the text has 10 tokens; training texts of up to 5000 tokens"));
}

TEST_F(TrainingTextsTest, BadOptionsAreNamed) {
  const auto failure = [&](const PasskeyOptions& options) {
    return TrainingTexts::InHaystack(tokenizer, options, Hay(500)).status().message();
  };
  EXPECT_THAT(failure({.n_passkeys = 21}), HasSubstr("passkeys"));
  EXPECT_THAT(failure({.n_words = 0}), HasSubstr("words"));
  EXPECT_THAT(failure({.min_length = 500, .max_length = 400}), HasSubstr("texts of 500 to 400 tokens"));
  EXPECT_THAT(failure({.max_length = 2000, .depth_begin = 0.9, .depth_end = 0.2}), HasSubstr("depths of 0.9"));
  EXPECT_THAT(failure({.max_length = 2000, .n_depths = 3}), HasSubstr("depths"));
}

TEST_F(TrainingTextsTest, EveryOptionGoesToItsEnds) {
  const auto ok = [&](const PasskeyOptions& options) {
    return TrainingTexts::InHaystack(tokenizer, options, Hay(900)).ok();
  };
  EXPECT_TRUE(ok({.n_passkeys = 1, .n_words = 1, .min_length = 16, .max_length = 16, .n_lengths = 1, .n_depths = 1}));
  EXPECT_TRUE(ok({.n_passkeys = 20, .n_words = 4096, .min_length = 16, .max_length = 17, .n_depths = 20}));
  EXPECT_TRUE(ok({.n_passkeys = 1, .min_length = 16, .max_length = 50, .depth_begin = 0, .depth_end = 1}));
  EXPECT_FALSE(ok({.n_passkeys = 0, .min_length = 16, .max_length = 50}));
  EXPECT_FALSE(ok({.n_passkeys = 1, .n_words = 4097, .min_length = 16, .max_length = 50}));
  EXPECT_FALSE(ok({.n_passkeys = 1, .min_length = 15, .max_length = 50}));
  EXPECT_FALSE(ok({.n_passkeys = 1, .min_length = 16, .max_length = 50, .n_lengths = 0}));
  EXPECT_FALSE(ok({.n_passkeys = 1, .min_length = 16, .max_length = 50, .depth_begin = -0.01}));
  EXPECT_FALSE(ok({.n_passkeys = 1, .min_length = 16, .max_length = 50, .depth_end = 1.01}));
  EXPECT_FALSE(ok({.n_passkeys = 1, .min_length = 16, .max_length = 50, .depth_begin = 0.5, .depth_end = 0.5}));
  EXPECT_FALSE(ok({.n_passkeys = 2, .min_length = 16, .max_length = 50, .n_depths = 1}));
  const auto refused = [&](int64_t max_length) {
    return TrainingTexts::Builtin(tokenizer, {.n_passkeys = 1, .min_length = 200, .max_length = max_length})
        .status()
        .message();
  };
  EXPECT_EQ(refused(int64_t{1} << 20), "");
  EXPECT_THAT(refused((int64_t{1} << 20) + 1), HasSubstr("tokens, expected 16..1048576"));
}

// A haystack with exactly as many tokens as the longest text is enough, and all of it is used.
TEST_F(TrainingTextsTest, AHaystackMayBeJustLongEnough) {
  const std::string hay = Hay(60);
  const auto n = std::ssize(tokenizer.Encode(hay, SpecialTokens::kNone));
  const auto texts = [&](int64_t max_length) {
    return TrainingTexts::InHaystack(
        tokenizer, {.n_passkeys = 1, .n_words = 2, .min_length = 16, .max_length = max_length, .n_lengths = 1}, hay);
  };
  EXPECT_FALSE(texts(n + 1).ok());
  const auto exact = texts(n);
  ASSERT_TRUE(exact.ok()) << exact.status().message();
  const std::string text = Text(exact->Make(0)->ids);
  EXPECT_NE(text.find("<book> The farmer grows cow number 0."), std::string::npos) << text;
  EXPECT_NE(text.find("cow number 59."), std::string::npos) << text;
  EXPECT_EQ(std::ssize(*exact->Plain(3, n)), n);
}

TEST_F(TrainingTextsTest, NeedlesLieAtTheirDepths) {
  const auto depths = [&](const PasskeyOptions& options, uint64_t index) {
    const auto texts = TrainingTexts::InHaystack(tokenizer, options, Hay(1500)).value();
    const TrainingText made = texts.Make(index).value();
    std::string context = Text({made.ids.begin(), made.ids.begin() + made.labels.begin});
    std::vector<double> found;
    // Finds the share of the haystack's text before each needle. Needles are removed as they are found.
    const std::string begin = "\n\nRemember this sequence";
    for (size_t at; (at = context.find(begin)) != std::string::npos;) {
      found.push_back(static_cast<double>(at));
      context.erase(at, context.find("\n\n", at + begin.size()) + 2 - at);
    }
    for (double& place : found) place /= static_cast<double>(context.size());
    return found;
  };
  const double close = 0.03;  // needles go to the next end of a sentence, and there is a frame around the text
  for (uint64_t index = 0; index < 5; ++index) {
    const PasskeyOptions one = {.n_passkeys = 1,
                                .n_words = 3,
                                .min_length = 2000,
                                .max_length = 2000,
                                .n_lengths = 1,
                                .depth_begin = 0.3,
                                .depth_end = 0.9,
                                .n_depths = 1};
    ASSERT_EQ(depths(one, index).size(), 1u);
    EXPECT_NEAR(depths(one, index)[0], 0.3, close) << "a single depth is depth_begin";
    PasskeyOptions three = one;
    three.n_passkeys = three.n_depths = 3;
    const std::vector<double> all = depths(three, index);
    ASSERT_EQ(all.size(), 3u);
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(all[i], 0.3 + 0.3 * static_cast<double>(i), close) << i;
  }
}

TEST_F(TrainingTextsTest, LengthsAreEvenlySpread) {
  const auto lengths = [&](int n_lengths) {
    const PasskeyOptions options = {
        .n_passkeys = 1, .n_words = 1, .min_length = 200, .max_length = 800, .n_lengths = n_lengths};
    const TrainingTexts texts = TrainingTexts::InHaystack(tokenizer, options, Hay(900)).value();
    std::set<int64_t> found;
    for (uint64_t index = 0; index < 40; ++index) {
      const TrainingText text = texts.Make(index).value();
      EXPECT_LE(std::ssize(text.ids), texts.max_text_tokens());
      EXPECT_GT(text.labels.begin, 200);
      found.insert((text.labels.begin - 45 + 50) / 100 * 100);  // rounded, without the needle and the frame
    }
    return found;
  };
  EXPECT_EQ(lengths(1), (std::set<int64_t>{800}));
  EXPECT_EQ(lengths(2), (std::set<int64_t>{200, 800}));
  EXPECT_EQ(lengths(4), (std::set<int64_t>{200, 400, 600, 800}));
}

TEST_F(TrainingTextsTest, PlainTextsAskNothing) {
  const PasskeyOptions options = {.n_passkeys = 2, .n_words = 3, .min_length = 100, .max_length = 400};
  const TrainingTexts hay = TrainingTexts::InHaystack(tokenizer, options, Hay(900)).value();
  const TrainingTexts book = TrainingTexts::Builtin(tokenizer, options).value();
  for (uint64_t index = 0; index < 5; ++index) {
    EXPECT_EQ(hay.Plain(index, 250)->size(), 250u);
    const auto n = std::ssize(*book.Plain(index, 250));
    EXPECT_LE(n, 250);
    EXPECT_GT(n, 200) << "up to a sentence shorter";
    for (const TrainingTexts* texts : {&hay, &book}) {
      EXPECT_EQ(Count(Text(*texts->Plain(index, 250)), "Passkey:"), 0u);
      EXPECT_NE(*texts->Plain(index, 250), *texts->Plain(index + 1, 250));
    }
  }
}

// Text without spaces or sentences, with several bytes per character. Slices never cut a character.
TEST_F(TrainingTextsTest, TakeAnyText) {
  std::string hay;
  for (int i = 0; i < 3000; ++i) hay += "日本語テキスト";
  const PasskeyOptions options{.n_passkeys = 3, .n_words = 2, .min_length = 200, .max_length = 400, .n_lengths = 2};
  const TrainingTexts texts = TrainingTexts::InHaystack(tokenizer, options, hay).value();
  double least = 1, most = 0;
  std::set<std::string> beginnings;
  for (uint64_t index = 0; index < 10; ++index) {
    const std::string text = Text(texts.Make(index).value().ids);
    EXPECT_EQ(Count(text, "Remember this sequence"), 3u);
    EXPECT_EQ(Count(text, "\uFFFD"), 0u);
    const double first = static_cast<double>(text.find("Remember")) / static_cast<double>(text.find("</book>"));
    least = std::min(least, first), most = std::max(most, first);
    beginnings.insert(text.substr(text.find("<book>"), 40));
  }
  EXPECT_LT(least, 0.2);  // needles are at their drawn depths, and slices begin anywhere
  EXPECT_GT(most, 0.25);
  EXPECT_GT(beginnings.size(), 3u);
}

}  // namespace
}  // namespace duo
