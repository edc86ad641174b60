#include "text/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include "text/sentencepiece_file.h"

namespace duo {
namespace {

class SentencePieceTokenizer final : public Tokenizer::Impl {
 public:
  explicit SentencePieceTokenizer(bool add_dummy_prefix) : Impl(Decoder::ForSentencePiece(add_dummy_prefix)) {}

  Status Load(std::string_view bytes, const std::string& path, const TokenizerConfig& config);

  void EncodeText(std::string_view text, SpecialText special, bool at_start, std::vector<int32_t>* ids) const override;

 protected:
  const Vocabulary& vocabulary() const override { return pieces_; }

 private:
  Status AddPieces(const std::string& path, const TokenizerConfig& config);
  Status ChooseEnds(const TokenizerConfig& config);

  sentencepiece::SentencePieceProcessor processor_;
  Vocabulary pieces_;
  AddedTokenFinder finder_;
};

Status SentencePieceTokenizer::Load(std::string_view bytes, const std::string& path, const TokenizerConfig& config) {
  const auto status = processor_.LoadFromSerializedProto({bytes.data(), bytes.size()});
  if (!status.ok()) {
    return Status(StatusCode::kCorrupt, path + ": not a SentencePiece model: " + std::string(status.message()));
  }
  DUO_RETURN_IF_ERROR(AddPieces(path, config));
  return ChooseEnds(config);
}

Status SentencePieceTokenizer::AddPieces(const std::string& path, const TokenizerConfig& config) {
  for (int id = 0; id < processor_.GetPieceSize(); ++id) {
    DUO_RETURN_IF_ERROR(pieces_.Add(processor_.IdToPiece(id), id, path));
  }
  for (const AddedToken& token : config.added_tokens) {
    DUO_RETURN_IF_ERROR(AddToken(token, config.path + ": added_tokens_decoder"));
    finder_.Add(token, token.content);
  }
  for (int id = 0; id < processor_.GetPieceSize(); ++id) {
    if (!processor_.IsControl(id) && !processor_.IsUnknown(id)) continue;
    AddedToken token;
    token.content = processor_.IdToPiece(id);
    token.id = id;
    token.special = true;
    DUO_RETURN_IF_ERROR(AddToken(token, path));
    finder_.Add(token, token.content);  // where the config has its own flags for the token, those stay
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
    std::vector<int> piece_ids;
    // Fails only for a processor without a model, which Load rules out.
    const auto status = processor_.Encode({piece.text.data(), piece.text.size()}, &piece_ids);
    if (status.ok()) ids->insert(ids->end(), piece_ids.begin(), piece_ids.end());
  }
}

}  // namespace

Result<std::unique_ptr<Tokenizer::Impl>> ParseSentencePiece(std::string_view bytes, const std::string& path,
                                                            const TokenizerConfig& config) {
  DUO_ASSIGN_OR_RETURN(const SentencePieceFile file, CheckSentencePieceFile(bytes, path));
  auto tokenizer = std::make_unique<SentencePieceTokenizer>(file.add_dummy_prefix);
  DUO_RETURN_IF_ERROR(tokenizer->Load(bytes, path, config));
  return std::unique_ptr<Tokenizer::Impl>(std::move(tokenizer));
}

}  // namespace duo
