// A long text with hidden facts and the questions for them, made from a seed: nothing has to be downloaded to see
// whether a model still finds what it read. The recipe of the facts is DuoAttention's multi-passkey task
// (arXiv:2410.10819 section 2.2) and a second kind with digits; the prose is the one the embedded model was trained on.
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
  int64_t n_tokens = 16384;  // of Book::text as the counter counts them; met up to 0.2 % or one sentence, never passed
  int n_facts = 8;           // 0..kMaxPasskeys + kMaxCodes
  uint64_t seed = 1;
  /// Kinds to draw from, turn by turn in random order; a kind whose keys are used up leaves its turns to the other.
  std::vector<FactKind> kinds = {FactKind::kPasskey, FactKind::kCode};
  /// Facts stand at evenly spread depths within these shares of the prose, each moved by up to half a step.
  double depth_begin = 0.05;
  double depth_end = 0.95;
  int min_words = 4, max_words = 8;    // different NATO words of a passkey, 1..26
  int min_digits = 4, max_digits = 6;  // of a code, 1..18
};

/// How many facts of a kind one book can hold: ordinals and first names.
inline constexpr int kMaxPasskeys = 20;
inline constexpr int kMaxCodes = 50;

struct Fact {
  FactKind kind = FactKind::kPasskey;
  std::string needle;    // the sentence as it stands in the text, exactly once; without a full stop that may follow it
  std::string question;  // ends with "\nPasskey: " or "\nAnswer: "; goes behind Book::text
  std::string answer;    // what comes next, without the newline that ends it; no answer is part of another
  double depth = 0;      // where it stands, as a share of the text's bytes
};

struct Book {
  /// "This is a very long story book: <book> ... </book>.\n\n"
  std::string text;
  std::vector<Fact> facts;  // in the order of the text
};

/// Number of tokens of a text, begin-of-text included when the model has one. Should grow with the text.
using TokenCounter = std::function<int64_t(std::string_view)>;

/// The same book for the same options and counter on every machine. Calls the counter about ten times, on texts of
/// about the final length. kInvalidArgument names the option; it also says so when the facts do not fit n_tokens.
Result<Book> MakeBook(const BookOptions& options, const TokenCounter& count_tokens);

}  // namespace duo
