// Long plain text to evaluate on, of any length: from the user's files, or made up.
#pragma once

#include <cstdint>
#include <string>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "text/haystack.h"

namespace duo {

class TextSource {
 public:
  /// `path`: what LoadHaystack takes, or "builtin": made-up stories. Errors as LoadHaystack; kInvalidArgument for a
  /// source without text.
  static Result<TextSource> Open(const std::string& path);

  /// Text of at least n_tokens tokens, the same for the same seed. Files are read from a paragraph that the seed
  /// chooses (seed 0: from the beginning), and over again when they are too short.
  Result<std::string> Take(int64_t n_tokens, uint64_t seed, const Tokenizer& tokenizer) const;

  /// The file's text as it stands, for measures that must not see anything twice; builtin: as Take with seed 0.
  Result<std::string> Whole(int64_t n_tokens, const Tokenizer& tokenizer) const;

  /// What identifies the text in a recipe: "builtin", or bytes and hash of the file's text.
  std::string identity() const;

 private:
  bool builtin_ = false;
  std::string text_;
};

}  // namespace duo
