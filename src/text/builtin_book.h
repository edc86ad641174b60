// A long text with hidden facts and questions about them, generated from a seed. It shows without any download whether
// a model still finds what it read. The facts follow DuoAttention's multi-passkey task (arXiv:2410.10819 section 2.2);
// a second kind of fact has digits. The embedded model was trained on the same prose.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "duo/result.h"

namespace duo {

enum class FactKind : uint8_t {
  kPasskey,  // "Remember this sequence of words, it's the third passkey to the vault: alpha kilo zulu"
  kCode,     // "The secret code of Anna is 48213."
};

struct BookOptions {
  int64_t n_tokens = 16384;  // length of Book::text by the counter; met within 0.2 % or one sentence, never exceeded
  int n_facts = 8;           // 0..kMaxPasskeys + kMaxCodes
  uint64_t seed = 1;
  /// Kinds of facts, taken in turn and then shuffled. When a kind has no keys left, the other takes its turns.
  std::vector<FactKind> kinds = {FactKind::kPasskey, FactKind::kCode};
  /// Facts are spread evenly between these shares of the prose, each moved by up to a quarter of a step either way.
  double depth_begin = 0.05;
  double depth_end = 0.95;
  int min_words = 4, max_words = 8;    // number of different NATO words in a passkey, 1..26
  int min_digits = 4, max_digits = 6;  // digits of a code, 1..18
};

/// Max facts of each kind in one book: each passkey has its own ordinal, each code its own first name.
inline constexpr int kMaxPasskeys = 20;
inline constexpr int kMaxCodes = 50;

struct Fact {
  FactKind kind = FactKind::kPasskey;
  std::string needle;    // the sentence, which appears in the text exactly once; excludes a full stop that may follow
  std::string question;  // ends with "\nPasskey: " or "\nAnswer: "; append it to Book::text
  std::string answer;    // the expected continuation, without its final newline; never part of another answer
  double depth = 0;      // position in the text, as a share of its bytes
};

struct Book {
  /// "This is a very long story book: <book> ... </book>.\n\n"
  std::string text;
  std::vector<Fact> facts;  // in text order
};

/// Counts the tokens of a text, including begin-of-text if the model has one. The count should grow with the text.
using TokenCounter = std::function<int64_t(std::string_view)>;

/// Makes the same book for the same options and counter on every machine. Calls the counter about ten times, on texts
/// of about the final length. kInvalidArgument names the option; it also reports facts that do not fit in n_tokens.
Result<Book> MakeBook(const BookOptions& options, const TokenCounter& count_tokens);

}  // namespace duo
