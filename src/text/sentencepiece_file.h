// The parts of a SentencePiece model file that must be known, or checked, before the library gets to see its bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

struct SentencePieceFile {
  int64_t n_pieces = 0;
  bool add_dummy_prefix = true;  // the encoder puts a space in front of every text
  // Cutting a text before each word changes nothing: BPE, the text is not normalised, a dummy prefix makes up for the
  // word's own space, and no piece has U+2581 behind another character, so no merge crosses a cut.
  bool words_are_independent = false;
};

/// Walks the protobuf (sentencepiece_model.proto) with every length checked. kCorrupt: not such a file, or a
/// normalisation table whose links leave the table (the library follows them unchecked). kUnsupported: a model type
/// other than BPE and unigram, or white space as a suffix.
Result<SentencePieceFile> CheckSentencePieceFile(std::string_view bytes, const std::string& path);

}  // namespace duo
