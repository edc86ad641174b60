// The texts of single tokens, for log probabilities.
#pragma once

#include <cstdint>
#include <string>

#include "duo/tokenizer.h"

namespace duo {

/// `tokenizer` must outlive it.
class TokenTexts {
 public:
  explicit TokenTexts(const Tokenizer* tokenizer);

  /// The token's text after other text: some tokenizers drop a blank at the beginning of a text.
  std::string Of(int32_t id) const;
  const Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  const Tokenizer* tokenizer_;
  int32_t before_ = -1;  // a token that is decoded before the other one, and its text; -1 = none
  std::string before_text_;
};

}  // namespace duo
