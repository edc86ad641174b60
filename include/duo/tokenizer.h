// Text to tokens and back, exactly as the model's own tokenizer files say.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "duo/result.h"

namespace duo {

/// Whether the model's own beginning-of-sequence (and other template) tokens are put around the text.
enum class SpecialTokens : uint8_t {
  kAdd,   // what the post-processor says, for example <|begin_of_text|> in front
  kNone,  // the text's own tokens only
};

/// Immutable after Open; all const methods may be called from several threads at once.
class Tokenizer {
 public:
  /// Opens `dir`/tokenizer.json, or `dir`/tokenizer.model when there is no tokenizer.json. tokenizer_config.json is
  /// read for bos/eos and the chat template when it is there, chat_template.jinja for a template of its own.
  /// kNotFound (neither file), kCorrupt (names file and key), kUnsupported (a model or pre-tokeniser duo lacks).
  /// "truncation" and "padding" of tokenizer.json are not applied.
  static Result<Tokenizer> Open(const std::string& dir);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Tokens of `text`. Added and special tokens that stand in the text become their ids, as in the reference library.
  /// Invalid UTF-8 is replaced by U+FFFD first (as Python's decode(errors="replace")). Linear time in the text's
  /// length.
  std::vector<int32_t> Encode(std::string_view text, SpecialTokens special = SpecialTokens::kAdd) const;

  /// Text of `ids`: kAdd keeps special tokens in the text, kNone leaves them out. Ids outside the vocabulary are left
  /// out. Bytes that are not UTF-8 become U+FFFD.
  std::string Decode(const std::vector<int32_t>& ids, SpecialTokens special = SpecialTokens::kAdd) const;

  /// Number of ids the tokenizer knows (1 + the largest id).
  int32_t vocab_size() const;
  /// -1 when the tokenizer has none.
  int32_t bos_id() const;
  int32_t eos_id() const;
  /// The id of a token given as the vocabulary spells it ("<|eot_id|>"), or -1.
  int32_t TokenId(std::string_view token) const;
  bool IsSpecial(int32_t id) const;
  /// The model's own chat template (Jinja text), empty when its files carry none.
  const std::string& chat_template() const;

  class Impl;

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Incremental decoding: text comes out as soon as it is certain, never half a UTF-8 character. The concatenation of
/// all Push() and the final Flush() equals Tokenizer::Decode of the same ids.
class StreamDecoder {
 public:
  /// Borrows `tokenizer`, which must outlive it.
  explicit StreamDecoder(const Tokenizer& tokenizer, SpecialTokens special = SpecialTokens::kNone);
  ~StreamDecoder();

  /// The text that became certain with this id; may be empty.
  std::string Push(int32_t id);
  /// What is left; an unfinished character becomes U+FFFD.
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

/// Renders conversations for the model families whose templates duo knows by their own text.
class ChatTemplate {
 public:
  enum class Style : uint8_t { kLlama2, kLlama3, kMistral, kChatMl };

  /// Recognises the family from tokenizer.chat_template(). kUnsupported, with what was looked for, otherwise.
  static Result<ChatTemplate> Recognise(const Tokenizer& tokenizer);
  explicit ChatTemplate(Style style)
      : style_(style), alternates_(style == Style::kLlama2 || style == Style::kMistral) {}

  Style style() const { return style_; }
  /// "Llama 2", "Llama 3", "Mistral", "ChatML".
  const char* style_name() const;
  /// The tokens of the whole conversation, ready for the assistant's turn. A last message of the assistant is an answer
  /// to be continued: the tokens end with its text, as after transformers' continue_final_message. Text of messages is
  /// never read as special tokens. kInvalidArgument for roles in an order that the model's template does not take
  /// (Llama 2 and Mistral: user and assistant in turn, at most one system message before them); about the role, by its
  /// path ("messages[2].role").
  Result<std::vector<int32_t>> Render(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) const;
  /// Strings that end the assistant's turn besides eos ("<|im_end|>", "<|eot_id|>").
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
  // In what the templates of one family differ, read off the template's own text.
  bool bos_ = true;
  bool alternates_;                    // user and assistant must take turns
  bool system_first_ = false;          // a system message must be the first
  bool think_in_last_answer_ = false;  // ChatML: reasoning after the last question stays (Qwen3)
  std::string default_system_;         // ChatML: the system message of a conversation without one
  bool drop_reasoning_ = false;        // ChatML: <think>...</think> of earlier answers is left out (Qwen3)
  bool dated_system_ = false;          // Llama-3.1: knowledge and today's date begin the system message
  bool space_after_open_ = true;       // Mistral: spaces around its markers
  bool space_before_close_ = true;
  bool space_before_answer_ = false;
  bool space_after_eos_ = false;
  bool trim_answer_ = false;
  bool system_in_last_turn_ = false;  // Mistral: the system message goes to the last user's, not the first
};

}  // namespace duo
