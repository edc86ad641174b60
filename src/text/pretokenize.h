// What tokenizer.json's "pre_tokenizer" does: cuts a text into pieces over which BPE never merges.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "duo/result.h"

namespace duo {

/// Receives pieces in text order; none is empty. The view is valid during the call only.
class PieceSink {
 public:
  virtual ~PieceSink() = default;
  /// `at_start`: the piece begins where the whole input text begins.
  virtual void Piece(std::string_view piece, bool at_start) = 0;
};

/// Immutable: may be used from several threads at once.
class PreTokenizer {
 public:
  class Stage;

  /// `spec` null: the whole text is one piece. Knows Split, ByteLevel (as the last), Digits, Metaspace and Sequence.
  static Result<PreTokenizer> Parse(const Json* spec, const std::string& where);

  PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  void Run(std::string_view text, bool at_start, PieceSink* sink) const;
  /// Whether pieces are to be read as bytes spelled by the byte-level alphabet (byte_alphabet.h).
  bool byte_level() const { return byte_level_; }

 private:
  std::vector<std::unique_ptr<Stage>> stages_;
  bool byte_level_ = false;
};

}  // namespace duo
