#include "text/tokenizer_json.h"

#include <fmt/format.h>

#include "base/error.h"
#include "text/bpe.h"
#include "text/declared_tokens.h"
#include "text/json_part.h"
#include "text/limits.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pretokenize.h"

namespace duo {
namespace {

class BpeTokenizer final : public Tokenizer::Impl {
 public:
  static Result<std::unique_ptr<Tokenizer::Impl>> Parse(const Json& json, const std::string& path,
                                                        const TokenizerConfig& config);

  void EncodeText(std::string_view text, SpecialText special, bool at_start, std::vector<int32_t>* ids) const override;

 protected:
  const Vocabulary& vocabulary() const override { return model_.vocabulary(); }

 private:
  BpeTokenizer(Decoder decoder, Normalizer normalizer, PreTokenizer pre_tokenizer, BpeModel model)
      : Impl(std::move(decoder)),
        normalizer_(std::move(normalizer)),
        pre_tokenizer_(std::move(pre_tokenizer)),
        model_(std::move(model)) {}

  Status ReadAddedTokens(const Json& json, const std::string& path, const TokenizerConfig& config);
  Status CheckTemplateIds(const std::string& path) const;
  void EncodeNormalized(std::string_view text, bool skip_special, bool at_start, BpeScratch* scratch,
                        std::vector<int32_t>* ids) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeModel model_;
  AddedTokenFinder raw_tokens_;         // matched in the text before normalisation
  AddedTokenFinder normalized_tokens_;  // matched after normalisation
};

// Encodes each piece as it arrives.
class EncodeSink final : public PieceSink {
 public:
  EncodeSink(const BpeModel& model, BpeScratch* scratch, std::vector<int32_t>* ids)
      : model_(model), scratch_(scratch), ids_(ids) {}
  void Piece(std::string_view piece, bool /*at_start*/) override { model_.Encode(piece, scratch_, ids_); }

 private:
  const BpeModel& model_;
  BpeScratch* scratch_;
  std::vector<int32_t>* ids_;
};

/// The entries of "added_tokens", in order.
Result<std::vector<AddedToken>> OwnTokens(const Json& json, const std::string& path) {
  std::vector<AddedToken> tokens;
  if (JsonOptional(json, "added_tokens") == nullptr) return tokens;
  DUO_ASSIGN_OR_RETURN(const Json* entries, JsonArray(json, "added_tokens", path));
  const std::string key = path + ": added_tokens";
  if (entries->size() > text_limits::kMaxAddedTokens) {
    return Unsupported("{}: {} tokens, expected at most {}", key, entries->size(), text_limits::kMaxAddedTokens);
  }
  for (const Json& entry : *entries) {
    const std::string where = fmt::format("{}[{}]", key, tokens.size());
    DUO_ASSIGN_OR_RETURN(const int64_t id, JsonInt(entry, "id", where));
    DUO_ASSIGN_OR_RETURN(AddedToken token, AddedToken::Parse(entry, id, where));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

Result<std::unique_ptr<Tokenizer::Impl>> BpeTokenizer::Parse(const Json& json, const std::string& path,
                                                             const TokenizerConfig& config) {
  if (!json.is_object()) {
    return Corrupt("{}: expected an object, found {}", path, JsonTypeName(json));
  }
  DUO_ASSIGN_OR_RETURN(Normalizer normalizer,
                       Normalizer::Parse(JsonOptional(json, "normalizer"), path + ": normalizer"));
  DUO_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                       PreTokenizer::Parse(JsonOptional(json, "pre_tokenizer"), path + ": pre_tokenizer"));
  DUO_ASSIGN_OR_RETURN(Decoder decoder, Decoder::Parse(JsonOptional(json, "decoder"), path + ": decoder"));
  DUO_ASSIGN_OR_RETURN(PostProcessor post,
                       PostProcessor::Parse(JsonOptional(json, "post_processor"), path + ": post_processor"));
  DUO_ASSIGN_OR_RETURN(const Json* model_json, JsonObject(json, "model", path));
  const BpeAlphabet alphabet = pre_tokenizer.byte_level() ? BpeAlphabet::kBytes : BpeAlphabet::kCharacters;
  DUO_ASSIGN_OR_RETURN(BpeModel model, BpeModel::Parse(*model_json, alphabet, path + ": model"));
  std::unique_ptr<BpeTokenizer> tokenizer(
      new BpeTokenizer(std::move(decoder), std::move(normalizer), std::move(pre_tokenizer), std::move(model)));
  DUO_RETURN_IF_ERROR(tokenizer->ReadAddedTokens(json, path, config));
  tokenizer->prefix_ = std::move(post.prefix);
  tokenizer->suffix_ = std::move(post.suffix);
  DUO_RETURN_IF_ERROR(tokenizer->CheckTemplateIds(path));
  DUO_RETURN_IF_ERROR(tokenizer->ApplyConfig(config));
  return std::unique_ptr<Tokenizer::Impl>(std::move(tokenizer));
}

Status BpeTokenizer::ReadAddedTokens(const Json& json, const std::string& path, const TokenizerConfig& config) {
  DUO_ASSIGN_OR_RETURN(std::vector<AddedToken> own, OwnTokens(json, path));
  const size_t n_own = own.size();
  DUO_ASSIGN_OR_RETURN(const std::vector<AddedToken> all,
                       WithDeclaredTokens(std::move(own), model_.vocabulary(), config));
  for (size_t i = 0; i < all.size(); ++i) {
    const AddedToken& token = all[i];
    if (token.content.empty()) continue;
    const std::string where = i < n_own ? fmt::format("{}: added_tokens[{}]", path, i)
                                        : fmt::format("{}: \"{}\"", config.path, token.content);
    DUO_RETURN_IF_ERROR(AddToken(token, where));
    std::string pattern = token.content;
    if (token.normalized) normalizer_.Apply(&pattern);  // this may make it much longer
    DUO_RETURN_IF_ERROR((token.normalized ? normalized_tokens_ : raw_tokens_).Add(token, pattern, where));
    if (pattern != token.content) normalized_texts_[token.id] = pattern;
  }
  return OkStatus();
}

Status BpeTokenizer::CheckTemplateIds(const std::string& path) const {
  for (const auto* ids : {&prefix_, &suffix_}) {
    for (const int32_t id : *ids) {
      if (TokenText(id) != nullptr) continue;
      return Corrupt("{}: post_processor: special_tokens: id {} is not in the vocabulary", path, id);
    }
  }
  return OkStatus();
}

void BpeTokenizer::EncodeText(std::string_view text, SpecialText special, bool at_start,
                              std::vector<int32_t>* ids) const {
  const bool skip_special = special == SpecialText::kPlain;
  BpeScratch scratch(text.size());
  std::string normalized;
  for (const AddedTokenFinder::Piece& piece : raw_tokens_.Split(text, skip_special)) {
    if (piece.id >= 0) {
      ids->push_back(piece.id);
      continue;
    }
    std::string_view ordinary = piece.text;
    if (!normalizer_.IsIdentity()) {
      normalized = ordinary;
      normalizer_.Apply(&normalized);
      ordinary = normalized;
    }
    EncodeNormalized(ordinary, skip_special, at_start && piece.text.data() == text.data(), &scratch, ids);
  }
}

void BpeTokenizer::EncodeNormalized(std::string_view text, bool skip_special, bool at_start, BpeScratch* scratch,
                                    std::vector<int32_t>* ids) const {
  EncodeSink sink(model_, scratch, ids);
  for (const AddedTokenFinder::Piece& piece : normalized_tokens_.Split(text, skip_special)) {
    if (piece.id >= 0) {
      ids->push_back(piece.id);
    } else {
      pre_tokenizer_.Run(piece.text, at_start && piece.text.data() == text.data(), &sink);
    }
  }
}

}  // namespace

Result<std::unique_ptr<Tokenizer::Impl>> ParseTokenizerJson(std::string_view text, const std::string& path,
                                                            const TokenizerConfig& config) {
  DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  return BpeTokenizer::Parse(json, path, config);
}

}  // namespace duo
