#include "server/answer_format.h"

#include <utility>

namespace duo {
namespace {

class TextFormat final : public AnswerFormat {
 public:
  const char* WholeObject() const override { return "text_completion"; }
  const char* EventObject() const override { return "text_completion"; }
  Json WholeText(const std::string& text) const override { return {{"text", text}}; }
  Json NewText(const std::string& text) const override { return {{"text", text}}; }
  Json EndOfText() const override { return {{"text", ""}}; }
  Json BeginOfText() const override { return nullptr; }

  Json LogProbsJson(const std::vector<ScoredToken>& tokens, const TokenTexts& texts) const override {
    Json names = Json::array(), chosen = Json::array(), top = Json::array(), offsets = Json::array();
    for (const ScoredToken& token : tokens) {
      names.push_back(token.text);
      offsets.push_back(token.offset);
      chosen.push_back(token.log_probs ? Json(token.log_probs->chosen.log_prob) : Json(nullptr));
      top.push_back(token.log_probs ? Top(*token.log_probs, texts) : Json(nullptr));
    }
    return {{"tokens", std::move(names)},
            {"token_logprobs", std::move(chosen)},
            {"top_logprobs", std::move(top)},
            {"text_offset", std::move(offsets)}};
  }

 private:
  static Json Top(const LogProbs& log_probs, const TokenTexts& texts) {
    Json top = Json::object();
    for (const TokenLogProb& other : log_probs.top) {
      // Different tokens may have the same text (parts of characters): keep the likelier one.
      const std::string text = texts.Of(other.id);
      if (!top.contains(text)) top[text] = other.log_prob;
    }
    return top;
  }
};

class ChatFormat final : public AnswerFormat {
 public:
  const char* WholeObject() const override { return "chat.completion"; }
  const char* EventObject() const override { return "chat.completion.chunk"; }
  Json WholeText(const std::string& text) const override {
    return {{"message", {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}}}};
  }
  Json NewText(const std::string& text) const override { return {{"delta", {{"content", text}}}}; }
  Json EndOfText() const override { return {{"delta", Json::object()}}; }
  Json BeginOfText() const override { return {{"delta", {{"role", "assistant"}, {"content", ""}}}}; }

  Json LogProbsJson(const std::vector<ScoredToken>& tokens, const TokenTexts& texts) const override {
    Json content = Json::array();
    for (const ScoredToken& token : tokens) {
      if (!token.log_probs) continue;
      Json entry = Entry(token.text, token.log_probs->chosen.log_prob);
      entry["top_logprobs"] = Json::array();
      for (const TokenLogProb& other : token.log_probs->top) {
        entry["top_logprobs"].push_back(Entry(texts.Of(other.id), other.log_prob));
      }
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }

 private:
  static Json Entry(const std::string& text, double log_prob) {
    Json bytes = Json::array();
    for (const char c : text) bytes.push_back(static_cast<uint8_t>(c));
    return {{"token", text}, {"logprob", log_prob}, {"bytes", std::move(bytes)}};
  }
};

}  // namespace

const AnswerFormat& FormatOf(CompletionKind kind) {
  static const TextFormat text;
  static const ChatFormat chat;
  if (kind == CompletionKind::kChat) return chat;
  return text;
}

}  // namespace duo
