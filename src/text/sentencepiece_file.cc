#include "text/sentencepiece_file.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "text/limits.h"
#include "text/utf8.h"

namespace duo {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr uint32_t kModelPieces = 1;
constexpr uint32_t kModelTrainerSpec = 2;
constexpr uint32_t kModelNormalizerSpec = 3;
constexpr uint32_t kModelDenormalizerSpec = 5;
constexpr uint32_t kPieceText = 1;
constexpr uint32_t kPieceScore = 2;
constexpr uint32_t kTrainerModelType = 3;
constexpr uint32_t kTrainerWhitespaceAsSuffix = 24;
constexpr uint32_t kNormalizerCharsmap = 2;
constexpr uint32_t kNormalizerAddDummyPrefix = 3;
constexpr uint32_t kNormalizerRemoveExtraSpaces = 4;
constexpr uint32_t kNormalizerEscapeSpaces = 5;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
constexpr uint64_t kUnigram = 1;
constexpr uint64_t kBpe = 2;

struct Field {
  uint32_t number;
  uint64_t value;          // of a varint field
  std::string_view bytes;  // of a length-delimited field
};

// Reads the fields of one protobuf message, in file order.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : rest_(bytes) {}
  // Returns false at the end, and on bytes that are not a protobuf message (then ok() is false).
  bool Next(Field* field) {
    *field = {};
    uint64_t tag = 0;
    uint64_t length = 0;
    if (rest_.empty()) return false;
    if (!Varint(&tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX) return Fail();
    field->number = tag >> 3;
    switch (tag & 7) {
      case 0: return Varint(&field->value) || Fail();
      case 1: length = 8; break;
      case 2:
        if (!Varint(&length)) return Fail();
        break;
      case 5: length = 4; break;
      default: return Fail();
    }
    if (length > rest_.size()) return Fail();
    field->bytes = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return true;
  }
  bool ok() const { return ok_; }

 private:
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const uint8_t byte = rest_[0];
      rest_.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool Fail() {
    ok_ = false;
    return false;
  }
  std::string_view rest_;
  bool ok_ = true;
};

uint32_t ReadU32(std::string_view bytes, size_t index) {
  uint32_t value;
  std::memcpy(&value, bytes.data() + index * sizeof(value), sizeof(value));
  return value;
}

// The table begins with its size in bytes and a darts-clone double array (32-bit units). The replacement strings
// follow, each ended by a zero byte. A unit at i links to the block of units at i ^ offset, and any byte may be the
// label that enters the block.
bool CharsmapIsSafe(std::string_view blob) {
  if (blob.empty()) return true;
  if (blob.size() <= sizeof(uint32_t)) return false;
  const size_t trie_bytes = ReadU32(blob, 0);
  blob.remove_prefix(sizeof(uint32_t));
  if (trie_bytes == 0 || trie_bytes >= blob.size() || trie_bytes % sizeof(uint32_t) != 0) return false;
  const std::string_view trie = blob.substr(0, trie_bytes);
  const std::string_view strings = blob.substr(trie_bytes);
  if (strings.back() != '\0') return false;
  const size_t n_units = trie_bytes / sizeof(uint32_t);
  for (size_t i = 0; i < n_units; ++i) {
    const uint32_t unit = ReadU32(trie, i);
    if ((unit >> 31) != 0) continue;  // a value, which is never followed
    const size_t block = i ^ (static_cast<size_t>(unit >> 10) << ((unit & 0x200u) >> 6));
    if ((block | 0xFF) >= n_units) return false;
    const bool has_leaf = ((unit >> 8) & 1) != 0;
    if (has_leaf && (ReadU32(trie, block) & 0x7FFFFFFFu) >= strings.size()) return false;
  }
  return true;
}

// The traits that determine words_are_independent. Defaults are those of sentencepiece_model.proto.
struct Traits {
  bool bpe = false;
  bool charsmap = false;
  bool add_dummy_prefix = true;
  bool remove_extra_spaces = true;
  bool escape_spaces = true;
  bool piece_spans_words = false;
  bool has_space_piece = false;  // otherwise spaces are unknown, and adjacent unknowns become one token
};

bool HasMarkInside(std::string_view piece) {
  while (piece.substr(0, kSpaceMark.size()) == kSpaceMark) piece.remove_prefix(kSpaceMark.size());
  return piece.find(kSpaceMark) != std::string_view::npos;
}

Status CheckPiece(std::string_view bytes, int64_t index, const std::string& path, Traits* traits) {
  FieldReader reader(bytes);
  std::string_view text;
  float score = 0;
  for (Field field; reader.Next(&field);) {
    if (field.number == kPieceText) text = field.bytes;
    if (field.number == kPieceScore && field.bytes.size() == sizeof(score)) {
      std::memcpy(&score, field.bytes.data(), sizeof(score));
    }
  }
  if (!reader.ok() || text.empty()) return Corrupt("{}: piece {}: expected a text, found none", path, index);
  if (!IsValidUtf8(text) || text.find('\0') != std::string_view::npos) {
    return Corrupt("{}: piece {}: expected UTF-8 without zero bytes, found other bytes", path, index);
  }
  if (!std::isfinite(score)) {
    return Corrupt("{}: piece {}: score: expected a finite number, found NaN or infinity", path, index);
  }
  if (HasMarkInside(text)) traits->piece_spans_words = true;
  if (text == kSpaceMark) traits->has_space_piece = true;
  return OkStatus();
}

Status CheckTrainer(std::string_view bytes, const std::string& path, Traits* traits) {
  FieldReader reader(bytes);
  for (Field field; reader.Next(&field);) {
    if (field.number == kTrainerModelType) {
      traits->bpe = field.value == kBpe;
      if (field.value != kUnigram && field.value != kBpe) {
        return Unsupported("{}: trainer_spec: model_type {} is not supported; duo knows 1 (unigram) and 2 (BPE)", path,
                           field.value);
      }
    }
    if (field.number == kTrainerWhitespaceAsSuffix && field.value != 0) {
      return Unsupported("{}: trainer_spec: treat_whitespace_as_suffix is not supported", path);
    }
  }
  return reader.ok() ? OkStatus() : Corrupt("{}: trainer_spec: not a protobuf message", path);
}

Status CheckNormalizer(std::string_view bytes, const std::string& path, Traits* traits) {
  FieldReader reader(bytes);
  for (Field field; reader.Next(&field);) {
    switch (field.number) {
      case kNormalizerAddDummyPrefix: traits->add_dummy_prefix = field.value != 0; break;
      case kNormalizerRemoveExtraSpaces: traits->remove_extra_spaces = field.value != 0; break;
      case kNormalizerEscapeSpaces: traits->escape_spaces = field.value != 0; break;
      case kNormalizerCharsmap:
        traits->charsmap = !field.bytes.empty();
        if (!CharsmapIsSafe(field.bytes)) {
          return Corrupt(
              "{}: normalizer_spec: precompiled_charsmap: expected a double array whose links stay inside it, "
              "found a malformed one",
              path);
        }
        break;
      default: break;
    }
  }
  return reader.ok() ? OkStatus() : Corrupt("{}: normalizer_spec: not a protobuf message", path);
}

}  // namespace

Result<SentencePieceFile> CheckSentencePieceFile(std::string_view bytes, const std::string& path) {
  SentencePieceFile file;
  Traits traits;
  FieldReader reader(bytes);
  for (Field field; reader.Next(&field);) {
    if (field.number == kModelPieces) {
      DUO_RETURN_IF_ERROR(CheckPiece(field.bytes, file.n_pieces++, path, &traits));
    } else if (field.number == kModelTrainerSpec) {
      DUO_RETURN_IF_ERROR(CheckTrainer(field.bytes, path, &traits));
    } else if (field.number == kModelNormalizerSpec) {
      DUO_RETURN_IF_ERROR(CheckNormalizer(field.bytes, path, &traits));
    } else if (field.number == kModelDenormalizerSpec) {
      Traits ignored;
      DUO_RETURN_IF_ERROR(CheckNormalizer(field.bytes, path, &ignored));
    }
  }
  if (!reader.ok()) return Corrupt("{}: not a SentencePiece model (not a protobuf message)", path);
  if (file.n_pieces == 0) return Corrupt("{}: not a SentencePiece model (no pieces)", path);
  if (file.n_pieces > text_limits::kMaxTokenId) {
    return Unsupported("{}: {} pieces, expected at most {}", path, file.n_pieces, text_limits::kMaxTokenId);
  }
  file.add_dummy_prefix = traits.add_dummy_prefix;
  file.words_are_independent = traits.bpe && !traits.charsmap && traits.add_dummy_prefix &&
                               !traits.remove_extra_spaces && traits.escape_spaces && !traits.piece_spans_words &&
                               traits.has_space_piece;
  return file;
}

}  // namespace duo
