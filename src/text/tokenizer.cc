#include "duo/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "text/limits.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_impl.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace duo {

const std::string* Tokenizer::Impl::TokenText(int32_t id) const {
  const std::string* text = added_.Text(id);
  return text != nullptr ? text : vocabulary().Text(id);
}

const std::string* Tokenizer::Impl::DecodedText(int32_t id) const {
  const auto normalized = normalized_texts_.find(id);
  return normalized != normalized_texts_.end() ? &normalized->second : TokenText(id);
}

int32_t Tokenizer::Impl::TokenId(std::string_view text) const {
  const int32_t id = added_.Find(text);
  return id >= 0 ? id : vocabulary().Find(text);
}

bool Tokenizer::Impl::IsSpecial(int32_t id) const { return id >= 0 && id < std::ssize(special_) && special_[id]; }

int32_t Tokenizer::Impl::end_id() const { return std::max(added_.end_id(), vocabulary().end_id()); }

Status Tokenizer::Impl::AddToken(const AddedToken& token, const std::string& where) {
  const int32_t known = vocabulary().Find(token.content);
  const std::string* holder = vocabulary().Text(token.id);
  if (known >= 0 && known != token.id) {
    return Corrupt("{}: \"{}\" has id {} here and {} in the vocabulary", where, token.content.substr(0, 60), token.id,
                   known);
  }
  if (known < 0 && holder != nullptr) {
    return Corrupt("{}: \"{}\": id {} belongs to \"{}\" in the vocabulary", where, token.content.substr(0, 60),
                   token.id, holder->substr(0, 60));
  }
  const bool repeated = added_.Find(token.content) == token.id;
  if (known < 0 && !repeated) DUO_RETURN_IF_ERROR(added_.Add(token.content, token.id, where));
  const size_t id = token.id;
  if (id >= special_.size()) special_.resize(id + 1);
  if (token.special) special_[id] = true;
  return OkStatus();
}

Status Tokenizer::Impl::ApplyConfig(const TokenizerConfig& config) {
  config_path_ = config.path;
  chat_template_ = config.chat_template;
  struct Named {
    const char* key;
    const std::string& text;
    int32_t* id;
  };
  for (const Named& token :
       {Named{"bos_token", config.bos_token, &bos_id_}, Named{"eos_token", config.eos_token, &eos_id_}}) {
    if (token.text.empty()) continue;
    *token.id = TokenId(token.text);
    if (*token.id >= 0) continue;
    return Corrupt("{}: {}: \"{}\" is not in the tokenizer's vocabulary", config.path, token.key,
                   token.text.substr(0, 60));
  }
  return OkStatus();
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::Open(const std::string& dir) {
  const std::string json_path = dir + "/tokenizer.json";
  const std::string model_path = dir + "/tokenizer.model";
  const bool has_json = FileExists(json_path);
  if (!has_json && !FileExists(model_path)) {
    return NotFound("{}: expected tokenizer.json or tokenizer.model, found neither", dir);
  }
  DUO_ASSIGN_OR_RETURN(const TokenizerConfig config, TokenizerConfig::Read(dir));
  if (has_json) {
    DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(json_path, text_limits::kMaxTokenizerJsonBytes));
    DUO_ASSIGN_OR_RETURN(std::unique_ptr<Impl> impl, ParseTokenizerJson(text, json_path, config));
    return Tokenizer(std::move(impl));
  }
  DUO_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(model_path, text_limits::kMaxSentencePieceBytes));
  DUO_ASSIGN_OR_RETURN(std::unique_ptr<Impl> impl, ParseSentencePiece(bytes, model_path, config));
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, SpecialTokens special) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    AppendReplacingInvalid(text, &repaired);
    text = repaired;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (special == SpecialTokens::kAdd) ids = impl_->prefix();
  impl_->EncodeText(text, Impl::SpecialText::kRead, true, &ids);
  if (special == SpecialTokens::kAdd) ids.insert(ids.end(), impl_->suffix().begin(), impl_->suffix().end());
  return ids;
}

std::string Tokenizer::Decode(const std::vector<int32_t>& ids, SpecialTokens special) const {
  StreamDecoder decoder(*this, special);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  text += decoder.Flush();
  return text;
}

int32_t Tokenizer::vocab_size() const { return impl_->end_id(); }
int32_t Tokenizer::bos_id() const { return impl_->bos_id(); }
int32_t Tokenizer::eos_id() const { return impl_->eos_id(); }
int32_t Tokenizer::TokenId(std::string_view token) const { return impl_->TokenId(token); }
bool Tokenizer::IsSpecial(int32_t id) const { return impl_->IsSpecial(id); }
const std::vector<int32_t>& Tokenizer::prefix() const { return impl_->prefix(); }
const std::vector<int32_t>& Tokenizer::suffix() const { return impl_->suffix(); }
const std::string& Tokenizer::chat_template() const { return impl_->chat_template(); }

}  // namespace duo
