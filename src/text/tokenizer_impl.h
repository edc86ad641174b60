// The state and interface that both kinds of tokenizer files share.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/tokenizer_config.h"
#include "text/vocabulary.h"

namespace duo {

/// Immutable once opened: const methods may be called from several threads at once.
class Tokenizer::Impl {
 public:
  virtual ~Impl() = default;

  /// Whether special tokens in a text become their ids or stay text.
  enum class SpecialText : uint8_t { kRead, kPlain };

  /// Appends the ids of `text` (valid UTF-8). `at_start`: no text comes before it.
  virtual void EncodeText(std::string_view text, SpecialText special, bool at_start,
                          std::vector<int32_t>* ids) const = 0;

  /// The token's text as its file spells it; null for an unknown id.
  const std::string* TokenText(int32_t id) const;
  /// The token's text as decoders receive it. The text of an added token that is matched after normalisation is
  /// normalised too. Null for an unknown id.
  const std::string* DecodedText(int32_t id) const;
  int32_t TokenId(std::string_view text) const;
  bool IsSpecial(int32_t id) const;
  int32_t end_id() const;

  const Decoder& decoder() const { return decoder_; }
  const std::vector<int32_t>& prefix() const { return prefix_; }
  const std::vector<int32_t>& suffix() const { return suffix_; }
  int32_t bos_id() const { return bos_id_; }
  int32_t eos_id() const { return eos_id_; }
  const std::string& chat_template() const { return chat_template_; }
  /// The path of tokenizer_config.json, for messages about the chat template.
  const std::string& config_path() const { return config_path_; }

  /// Makes a tokenizer from `impl`. Only the two openers and tests need this.
  static Tokenizer Wrap(std::unique_ptr<Impl> impl) { return Tokenizer(std::move(impl)); }
  static const Impl& Of(const Tokenizer& tokenizer) { return *tokenizer.impl_; }

 protected:
  explicit Impl(Decoder decoder) : decoder_(std::move(decoder)) {}
  /// Makes `token` known. A text that the vocabulary has keeps its id there, which must equal token.id. kCorrupt when
  /// the id or the text belongs to another token.
  Status AddToken(const AddedToken& token, const std::string& where);
  /// Sets bos, eos and the chat template. kCorrupt when bos or eos is not in the vocabulary.
  Status ApplyConfig(const TokenizerConfig& config);

  /// The model's own tokens.
  virtual const Vocabulary& vocabulary() const = 0;

  Vocabulary added_;                                           // tokens that the model's vocabulary lacks
  std::vector<bool> special_;                                  // by id
  std::unordered_map<int32_t, std::string> normalized_texts_;  // by id; only those that differ from TokenText
  Decoder decoder_;
  std::vector<int32_t> prefix_;
  std::vector<int32_t> suffix_;
  int32_t bos_id_ = -1;
  int32_t eos_id_ = -1;
  std::string chat_template_;
  std::string config_path_;
};

}  // namespace duo
