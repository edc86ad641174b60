// Converts text to tokens and back, exactly as the model's own tokenizer files say.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "duo/result.h"

namespace duo {

/// Whether special tokens, for example the beginning-of-sequence token, are added when text is encoded and kept when
/// tokens are decoded.
enum class SpecialTokens : uint8_t {
  kAdd,   // with the tokens that the post-processor adds, for example <|begin_of_text|> at the start
  kNone,  // only the text's own tokens
};

/// Immutable after Open; all const methods may be called from several threads at once.
class Tokenizer {
 public:
  /// Opens `dir`/tokenizer.json, or `dir`/tokenizer.model when there is no tokenizer.json. If they exist,
  /// tokenizer_config.json gives bos, eos and the chat template, and chat_template.jinja gives a template of its own.
  /// The keys "truncation" and "padding" of tokenizer.json are ignored.
  ///
  /// Returns kNotFound if neither file exists, kCorrupt with file and key, and kUnsupported if duo lacks the model or
  /// the pre-tokeniser.
  static Result<Tokenizer> Open(const std::string& dir);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// The tokens of `text`. Added and special tokens that are spelt out in the text become their ids, as in the
  /// reference library. Invalid UTF-8 is first replaced by U+FFFD, as Python's decode(errors="replace") does. Takes
  /// linear time in the text's length.
  std::vector<int32_t> Encode(std::string_view text, SpecialTokens special = SpecialTokens::kAdd) const;

  /// The text of `ids`. kAdd keeps special tokens in the text, kNone leaves them out. Ids outside the vocabulary are
  /// left out. Bytes that are not UTF-8 become U+FFFD.
  std::string Decode(const std::vector<int32_t>& ids, SpecialTokens special = SpecialTokens::kAdd) const;

  /// 1 + the largest id that the tokenizer knows.
  int32_t vocab_size() const;
  /// -1 when the tokenizer has no such token.
  int32_t bos_id() const;
  int32_t eos_id() const;
  /// The id of a token, given as the vocabulary spells it ("<|eot_id|>"), or -1.
  int32_t TokenId(std::string_view token) const;
  bool IsSpecial(int32_t id) const;
  /// The special tokens that Encode puts before and after every text with SpecialTokens::kAdd.
  const std::vector<int32_t>& prefix() const;
  const std::vector<int32_t>& suffix() const;
  /// The model's own chat template (Jinja text); empty when its files have none.
  const std::string& chat_template() const;

  class Impl;

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Decodes incrementally. Returns text as soon as it is certain, and never half a UTF-8 character. All results of
/// Push() and the final Flush() together equal Tokenizer::Decode of the same ids.
class StreamDecoder {
 public:
  /// Borrows `tokenizer`, which must outlive it.
  explicit StreamDecoder(const Tokenizer& tokenizer, SpecialTokens special = SpecialTokens::kNone);
  ~StreamDecoder();

  /// Returns the text that became certain with this id; may be empty.
  std::string Push(int32_t id);
  /// Returns the rest of the text; an unfinished character becomes U+FFFD.
  std::string Flush();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct ChatMessage {
  enum class Role : uint8_t { kSystem, kUser, kAssistant };
  Role role;
  std::string text;
};

/// Renders conversations as tokens, for the model families whose chat templates duo recognises by their text.
class ChatTemplate {
 public:
  enum class Style : uint8_t { kLlama2, kLlama3, kMistral, kChatMl };

  /// Recognises the family from tokenizer.chat_template(). Returns kUnsupported, with what was looked for, if the
  /// template is of no known family.
  static Result<ChatTemplate> Recognise(const Tokenizer& tokenizer);
  explicit ChatTemplate(Style style)
      : style_(style), alternates_(style == Style::kLlama2 || style == Style::kMistral) {}

  Style style() const { return style_; }
  /// "Llama 2", "Llama 3", "Mistral", "ChatML".
  const char* style_name() const;
  /// The tokens of the whole conversation, ready for the assistant's turn. If the last message is the assistant's, it
  /// is an answer to be continued: the tokens end with its text, as with transformers' continue_final_message. Text of
  /// messages is never read as special tokens.
  ///
  /// Returns kInvalidArgument if the template does not accept the order of the roles. Llama 2 and Mistral require user
  /// and assistant in turn, after at most one system message. The error's subject is the role's path
  /// ("messages[2].role").
  Result<std::vector<int32_t>> Render(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const;
  /// Strings that end the assistant's turn, in addition to eos ("<|im_end|>", "<|eot_id|>").
  std::vector<std::string> stop_tokens() const;

 private:
  void ReadDetails(std::string_view jinja);
  Status CheckRoles(const std::vector<ChatMessage>& messages) const;
  std::string ChatMlAnswer(const std::vector<ChatMessage>& messages, size_t i) const;
  std::vector<int32_t> RenderLlama2(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const;
  std::vector<int32_t> RenderLlama3(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const;
  std::vector<int32_t> RenderMistral(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const;
  std::vector<int32_t> RenderChatMl(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const;

  Style style_;
  // Differences between the templates of one family, read from the template's own text.
  bool bos_ = true;
  bool alternates_;                    // user and assistant must take turns
  bool system_first_ = false;          // a system message must be the first message
  bool think_in_last_answer_ = false;  // ChatML: reasoning after the last question stays (Qwen3)
  std::string default_system_;         // ChatML: the system message of a conversation without one
  bool drop_reasoning_ = false;        // ChatML: <think>...</think> of earlier answers is left out (Qwen3)
  bool dated_system_ = false;          // Llama-3.1: the system message begins with the template's two fixed dates
  bool space_after_open_ = true;       // Mistral: spaces around its markers
  bool space_before_close_ = true;
  bool space_before_answer_ = false;
  bool space_after_eos_ = false;
  bool trim_answer_ = false;
  bool system_in_last_turn_ = false;  // Mistral: the system message goes into the last user message, not the first
};

}  // namespace duo
