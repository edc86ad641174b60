// Reads the parts of a SentencePiece model file that must be known or checked before the library sees its bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

struct SentencePieceFile {
  int64_t n_pieces = 0;
  bool add_dummy_prefix = true;  // the encoder puts a space in front of every text
  // True if cutting a text before each word does not change its ids. The model must be BPE without normalisation, with
  // a dummy prefix that replaces the word's own space. No piece may have U+2581 after another character, so that no
  // merge crosses a cut.
  bool words_are_independent = false;
};

/// Walks the protobuf (sentencepiece_model.proto) and checks every length. Returns kCorrupt if it is not such a file,
/// or if a normalisation table has links that leave the table (the library follows them unchecked). Returns
/// kUnsupported for a model type other than BPE and unigram, and for white space as a suffix.
Result<SentencePieceFile> CheckSentencePieceFile(std::string_view bytes, const std::string& path);

}  // namespace duo
