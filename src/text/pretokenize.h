// tokenizer.json's "pre_tokenizer": cuts a text into pieces. BPE never merges across a cut.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "duo/result.h"

namespace duo {

/// Receives pieces in text order; none is empty. The view is valid only during the call.
class PieceSink {
 public:
  virtual ~PieceSink() = default;
  /// `at_start`: the piece begins at the start of the whole input text.
  virtual void Piece(std::string_view piece, bool at_start) = 0;
};

/// Immutable: may be used from several threads at once.
class PreTokenizer {
 public:
  class Stage;

  /// A null `spec` makes the whole text one piece. Supports Split, ByteLevel (only as the last step), Digits, Metaspace
  /// and Sequence.
  static Result<PreTokenizer> Parse(const Json* spec, const std::string& where);

  PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  void Run(std::string_view text, bool at_start, PieceSink* sink) const;
  /// Whether the model reads pieces as bytes, spelled with the byte-level alphabet (byte_alphabet.h).
  bool byte_level() const { return byte_level_; }

 private:
  std::vector<std::unique_ptr<Stage>> stages_;
  bool byte_level_ = false;
};

}  // namespace duo
