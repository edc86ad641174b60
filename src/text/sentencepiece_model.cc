#include "text/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <unordered_map>

#include "base/error.h"
#include "text/declared_tokens.h"
#include "text/sentencepiece_file.h"

namespace duo {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
constexpr size_t kMaxRememberedWordBytes = 32;
constexpr size_t kMaxRememberedWords = size_t{1} << 16;

// Returns the end of the stretch at `begin`, which is before the spaces of the next word. Trailing spaces belong to the
// last word: a text of spaces alone would lose one of them to the dummy prefix.
size_t WordEnd(std::string_view text, size_t begin) {
  const size_t word = text.find_first_not_of(' ', begin);
  if (word == std::string_view::npos) return text.size();
  const size_t space = text.find(' ', word);
  return text.find_first_not_of(' ', space) == std::string_view::npos ? text.size() : space;
}

class SentencePieceTokenizer final : public Tokenizer::Impl {
 public:
  explicit SentencePieceTokenizer(const SentencePieceFile& file)
      : Impl(Decoder::ForSentencePiece(file.add_dummy_prefix)), words_are_independent_(file.words_are_independent) {}

  Status Load(std::string_view bytes, const std::string& path, const TokenizerConfig& config);

  void EncodeText(std::string_view text, SpecialText special, bool at_start, std::vector<int32_t>* ids) const override;

 protected:
  const Vocabulary& vocabulary() const override { return pieces_; }

 private:
  Status AddPieces(const std::string& path, const TokenizerConfig& config);
  Status ChooseEnds(const TokenizerConfig& config);
  std::vector<int> EncodeStretch(std::string_view text) const;
  void EncodeByWords(std::string_view text, std::vector<int32_t>* ids) const;

  bool words_are_independent_;
  sentencepiece::SentencePieceProcessor processor_;
  Vocabulary pieces_;
  AddedTokenFinder finder_;
};

Status SentencePieceTokenizer::Load(std::string_view bytes, const std::string& path, const TokenizerConfig& config) {
  try {  // the library's trie builder throws on keys that it refuses
    const auto status = processor_.LoadFromSerializedProto({bytes.data(), bytes.size()});
    if (!status.ok()) {
      return Corrupt("{}: not a SentencePiece model: {}", path, status.message());
    }
  } catch (const std::exception& e) {
    return Corrupt("{}: not a SentencePiece model: {}", path, e.what());
  }
  DUO_RETURN_IF_ERROR(AddPieces(path, config));
  return ChooseEnds(config);
}

Status SentencePieceTokenizer::AddPieces(const std::string& path, const TokenizerConfig& config) {
  for (int id = 0; id < processor_.GetPieceSize(); ++id) {
    DUO_RETURN_IF_ERROR(pieces_.Add(processor_.IdToPiece(id), id, path));
  }
  // The declared tokens are passed as the file's own, so the ids of added_tokens_decoder count. The model's file has no
  // added tokens whose ids they could continue.
  DUO_ASSIGN_OR_RETURN(const auto declared, WithDeclaredTokens(config.added_tokens, pieces_, config));
  for (const AddedToken& token : declared) {
    const std::string where = config.path + ": added_tokens_decoder or additional_special_tokens";
    if (token.content.empty()) continue;
    DUO_RETURN_IF_ERROR(AddToken(token, where));
    DUO_RETURN_IF_ERROR(finder_.Add(token, token.content, where));
  }
  for (int id = 0; id < processor_.GetPieceSize(); ++id) {
    if (!processor_.IsControl(id) && !processor_.IsUnknown(id)) continue;
    AddedToken token;
    token.content = processor_.IdToPiece(id);
    token.id = id;
    token.special = true;
    DUO_RETURN_IF_ERROR(AddToken(token, path));
    // If the config declared the token, its flags stay: the finder keeps the first entry.
    DUO_RETURN_IF_ERROR(finder_.Add(token, token.content, path));
  }
  return OkStatus();
}

Status SentencePieceTokenizer::ChooseEnds(const TokenizerConfig& config) {
  bos_id_ = processor_.bos_id();
  eos_id_ = processor_.eos_id();
  DUO_RETURN_IF_ERROR(ApplyConfig(config));
  if (bos_id_ >= 0 && config.add_bos_token.value_or(true)) prefix_ = {bos_id_};
  if (eos_id_ >= 0 && config.add_eos_token.value_or(false)) suffix_ = {eos_id_};
  return OkStatus();
}

void SentencePieceTokenizer::EncodeText(std::string_view text, SpecialText special, bool /*at_start*/,
                                        std::vector<int32_t>* ids) const {
  for (const AddedTokenFinder::Piece& piece : finder_.Split(text, special == SpecialText::kPlain)) {
    if (piece.id >= 0) {
      ids->push_back(piece.id);
      continue;
    }
    // A U+2581 in the text also counts as a space. Such texts are rare, so they are encoded whole.
    if (words_are_independent_ && piece.text.find(kSpaceMark) == std::string_view::npos) {
      EncodeByWords(piece.text, ids);
    } else {
      const std::vector<int> piece_ids = EncodeStretch(piece.text);
      ids->insert(ids->end(), piece_ids.begin(), piece_ids.end());
    }
  }
}

std::vector<int> SentencePieceTokenizer::EncodeStretch(std::string_view text) const {
  std::vector<int> ids;
  // Fails only for a processor without a model, which Load rules out.
  if (!processor_.Encode({text.data(), text.size()}, &ids).ok()) ids.clear();
  return ids;
}

// The library takes seconds per megabyte for one long text. Words repeat, and each costs it little.
void SentencePieceTokenizer::EncodeByWords(std::string_view text, std::vector<int32_t>* ids) const {
  std::unordered_map<std::string_view, std::vector<int>> remembered;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = WordEnd(text, begin);
    // The dummy prefix replaces one space of every word except the first.
    const std::string_view word = text.substr(begin, end - begin).substr(begin == 0 ? 0 : 1);
    begin = end;
    const auto known = remembered.find(word);
    std::vector<int> fresh;
    if (known == remembered.end()) fresh = EncodeStretch(word);
    const std::vector<int>& word_ids = known == remembered.end() ? fresh : known->second;
    ids->insert(ids->end(), word_ids.begin(), word_ids.end());
    if (known == remembered.end() && word.size() <= kMaxRememberedWordBytes &&
        remembered.size() < kMaxRememberedWords) {
      remembered.emplace(word, std::move(fresh));
    }
  }
}

}  // namespace

Result<std::unique_ptr<Tokenizer::Impl>> ParseSentencePiece(std::string_view bytes, const std::string& path,
                                                            const TokenizerConfig& config) {
  DUO_ASSIGN_OR_RETURN(const SentencePieceFile file, CheckSentencePieceFile(bytes, path));
  auto tokenizer = std::make_unique<SentencePieceTokenizer>(file);
  DUO_RETURN_IF_ERROR(tokenizer->Load(bytes, path, config));
  return std::unique_ptr<Tokenizer::Impl>(std::move(tokenizer));
}

}  // namespace duo
