// Long plain text for evaluations, of any length, from the user's files or generated.
#pragma once

#include <cstdint>
#include <string>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "text/haystack.h"

namespace duo {

class TextSource {
 public:
  /// `path` is a path for LoadHaystack, or "builtin" for generated stories. Errors as LoadHaystack; kInvalidArgument
  /// for a source without text.
  static Result<TextSource> Open(const std::string& path);

  /// Returns text of at least n_tokens tokens, the same for the same seed. Files are read from a paragraph that the
  /// seed chooses (seed 0: from the beginning). Files that are too short repeat.
  Result<std::string> Take(int64_t n_tokens, uint64_t seed, const Tokenizer& tokenizer) const;

  /// Returns the file's text unchanged, for measures that must not see anything twice. For builtin, like Take with seed
  /// 0.
  Result<std::string> Whole(int64_t n_tokens, const Tokenizer& tokenizer) const;

  /// Identifies the text in a recipe: "builtin", or the size and the hash of the file's text.
  std::string identity() const;

 private:
  bool builtin_ = false;
  std::string text_;
};

}  // namespace duo
