// The four conversation formats, each as the model family's published template renders it.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/strings.h"
#include "duo/tokenizer.h"
#include "text/tokenizer_impl.h"
#include "text/utf8.h"

namespace duo {
namespace {

// Llama-3.1's template puts these lines first in every system message; the date is the template's own default.
constexpr std::string_view kLlama31Dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

bool Contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// Python's str.strip(): white space and the four separators U+001C..U+001F.
bool IsStripped(uint32_t c) { return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

std::string_view PythonStrip(std::string_view text) { return TrimEndIf(TrimStartIf(text, IsStripped), IsStripped); }

// Finds the system message that a ChatML template itself writes when a conversation has none. The template holds it as
// one Jinja string: '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'.
std::string ChatMlDefaultSystem(std::string_view jinja) {
  constexpr std::string_view kOpen = "<|im_start|>system";
  constexpr std::string_view kClose = "<|im_end|>";
  for (size_t pos = jinja.find(kOpen); pos != std::string_view::npos; pos = jinja.find(kOpen, pos)) {
    pos += kOpen.size();
    std::string_view rest = jinja.substr(pos);
    if (rest.substr(0, 2) == "\\n") {
      rest.remove_prefix(2);
    } else if (rest.substr(0, 1) == "\n") {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    const std::string_view text = rest.substr(0, rest.find(kClose));
    if (text.size() < rest.size() && !text.empty() && text.find_first_of("'\"{}") == std::string_view::npos) {
      return std::string(text);
    }
  }
  return "";
}

// Collects ids. The text between two ids is encoded as a whole, because a token may span the boundary between the
// template's words and a message's.
class Transcript {
 public:
  explicit Transcript(const Tokenizer& tokenizer) : tokenizer_(tokenizer), impl_(Tokenizer::Impl::Of(tokenizer)) {}

  void Text(std::string_view text) { text_ += text; }
  // Adds a marker of the template: an id if the vocabulary has it as a special token, otherwise text.
  void Marker(std::string_view marker) {
    const int32_t id = tokenizer_.TokenId(marker);
    if (id >= 0 && tokenizer_.IsSpecial(id)) {
      Id(id);
    } else {
      Text(marker);
    }
  }
  // Does nothing for -1.
  void Id(int32_t id) {
    if (id < 0) return;
    FlushText();
    ids_.push_back(id);
  }
  std::vector<int32_t> Take() {
    FlushText();
    return std::move(ids_);
  }

 private:
  void FlushText() {
    if (text_.empty()) return;
    std::string valid;
    AppendReplacingInvalid(text_, &valid);
    impl_.EncodeText(valid, Tokenizer::Impl::SpecialText::kPlain, ids_.empty(), &ids_);
    text_.clear();
  }

  const Tokenizer& tokenizer_;
  const Tokenizer::Impl& impl_;
  std::vector<int32_t> ids_;
  std::string text_;
};

std::string_view RoleName(ChatMessage::Role role) {
  switch (role) {
    case ChatMessage::Role::kSystem: return "system";
    case ChatMessage::Role::kUser: return "user";
    case ChatMessage::Role::kAssistant: break;
  }
  return "assistant";
}

bool ContinuesAnswer(const std::vector<ChatMessage>& messages) {
  return messages.back().role == ChatMessage::Role::kAssistant;
}

/// The index of the last user message; the number of messages if there are none.
size_t LastUser(const std::vector<ChatMessage>& messages) {
  size_t last = messages.size();
  for (size_t i = 0; i < messages.size(); ++i) last = messages[i].role == ChatMessage::Role::kUser ? i : last;
  return last;
}

// Qwen3 omits the reasoning of earlier turns.
std::string_view WithoutReasoning(std::string_view text) {
  constexpr std::string_view kEnd = "</think>";
  const size_t end = text.rfind(kEnd);
  return end == std::string_view::npos ? text : TrimStart(text.substr(end + kEnd.size()), "\n");
}

// The text between <think> and the first </think>, without the newlines around it.
std::string_view ReasoningOf(std::string_view text) {
  constexpr std::string_view kBegin = "<think>";
  const size_t end = text.find("</think>");
  if (end == std::string_view::npos) return "";
  text = text.substr(0, end);
  if (const size_t begin = text.rfind(kBegin); begin != std::string_view::npos)
    text.remove_prefix(begin + kBegin.size());
  return Trim(text, "\n");
}

}  // namespace

// Refuses every order of roles that the template refuses.
Status ChatTemplate::CheckRoles(const std::vector<ChatMessage>& messages) const {
  using Role = ChatMessage::Role;
  const auto wrong = [&](size_t i, const std::string& what) {
    const std::string where = fmt::format("messages[{}].role", i);
    return InvalidArgument("{}: the {} template of this model takes {}", where, style_name(), what).About(where);
  };
  if (messages.empty()) return InvalidArgument("messages: expected at least one, found none").About("messages");
  const size_t first = messages[0].role == Role::kSystem ? 1 : 0;
  for (size_t i = first; i < messages.size(); ++i) {
    const Role role = messages[i].role;
    if (system_first_ && role == Role::kSystem) return wrong(i, "a system message at the beginning only");
    const Role expected = (i - first) % 2 == 0 ? Role::kUser : Role::kAssistant;
    if (!alternates_ || role == expected) continue;
    return wrong(i, fmt::format("user and assistant in turn, after at most one system message: found {}, expected {}",
                                RoleName(role), RoleName(expected)));
  }
  if (alternates_ && messages.size() == first) return wrong(0, "a system message only before a user message");
  return OkStatus();
}

Result<ChatTemplate> ChatTemplate::Recognise(const Tokenizer& tokenizer) {
  const std::string& jinja = tokenizer.chat_template();
  const std::string& path = Tokenizer::Impl::Of(tokenizer).config_path();
  if (jinja.empty()) {
    return Unsupported("{}: chat_template: the model has no chat template, so duo cannot hold a conversation with it",
                       path);
  }
  struct Family {
    Style style;
    std::vector<const char*> marks;   // all must be in the template
    std::vector<const char*> tokens;  // all must be in the vocabulary
  };
  const Family families[] = {
      {Style::kLlama3,
       {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
       {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
      {Style::kChatMl, {"<|im_start|>", "<|im_end|>"}, {"<|im_start|>", "<|im_end|>"}},
      {Style::kLlama2, {"[INST]", "<<SYS>>"}, {}},
      {Style::kMistral, {"[INST]", "[/INST]"}, {}},
  };
  for (const Family& family : families) {
    const auto in_template = [&](const char* mark) { return Contains(jinja, mark); };
    if (!std::all_of(family.marks.begin(), family.marks.end(), in_template)) continue;
    for (const char* token : family.tokens) {
      if (tokenizer.TokenId(token) >= 0) continue;
      return Corrupt("{}: chat_template uses {}, which the tokenizer's vocabulary lacks", path, token);
    }
    ChatTemplate result(family.style);
    result.ReadDetails(jinja);
    return result;
  }
  return Unsupported(
      "{}: chat_template: not a format that duo knows; looked for <|start_header_id|> (Llama-3), <|im_start|> (ChatML, "
      "Qwen), [INST] with <<SYS>> (Llama-2), [INST] (Mistral)",
      path);
}

void ChatTemplate::ReadDetails(std::string_view jinja) {
  bos_ = style_ != Style::kChatMl || Contains(jinja, "bos_token");
  alternates_ = alternates_ || Contains(jinja, "must alternate");
  system_first_ = Contains(jinja, "must be at the beginning");
  if (style_ == Style::kChatMl) {
    default_system_ = ChatMlDefaultSystem(jinja);
    drop_reasoning_ = Contains(jinja, "</think>");
    think_in_last_answer_ = drop_reasoning_ && Contains(jinja, "last_query_index");
  } else if (style_ == Style::kLlama3) {
    dated_system_ = Contains(jinja, "Cutting Knowledge Date: December 2023");
  } else if (style_ == Style::kMistral) {
    space_after_open_ = Contains(jinja, "[INST] ");
    space_before_close_ = Contains(jinja, " [/INST]");
    space_before_answer_ = Contains(jinja, "' ' + message") || Contains(jinja, "\" \" + message");
    space_after_eos_ = Contains(jinja, "eos_token + ' '") || Contains(jinja, "eos_token + \" \"");
    system_in_last_turn_ = Contains(jinja, "loop.last and system_message");
    trim_answer_ = Contains(jinja, "message['content']|trim") || Contains(jinja, "message[\"content\"]|trim");
  }
}

Result<std::vector<int32_t>> ChatTemplate::Render(const Tokenizer& tokenizer,
                                                  const std::vector<ChatMessage>& messages) const {
  DUO_RETURN_IF_ERROR(CheckRoles(messages));
  switch (style_) {
    case Style::kLlama2: return RenderLlama2(tokenizer, messages);
    case Style::kLlama3: return RenderLlama3(tokenizer, messages);
    case Style::kMistral: return RenderMistral(tokenizer, messages);
    case Style::kChatMl: break;
  }
  return RenderChatMl(tokenizer, messages);
}

// <s>[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nUSER [/INST] ANSWER </s><s>[INST] USER [/INST]
std::vector<int32_t> ChatTemplate::RenderLlama2(const Tokenizer& tokenizer,
                                                const std::vector<ChatMessage>& messages) const {
  Transcript out(tokenizer);
  std::string system;
  for (const ChatMessage& message : messages) {
    switch (message.role) {
      case ChatMessage::Role::kSystem: system.append("<<SYS>>\n").append(message.text).append("\n<</SYS>>\n\n"); break;
      case ChatMessage::Role::kUser:
        out.Id(tokenizer.bos_id());
        out.Marker("[INST]");
        out.Text(" ");
        out.Text(PythonStrip(system + message.text));
        out.Text(" ");
        out.Marker("[/INST]");
        system.clear();
        break;
      case ChatMessage::Role::kAssistant:
        out.Text(" ");
        out.Text(PythonStrip(message.text));
        if (&message == &messages.back()) break;
        out.Text(" ");
        out.Id(tokenizer.eos_id());
        break;
    }
  }
  return out.Take();
}

// <|start_header_id|>ROLE<|end_header_id|>\n\nTEXT<|eot_id|> for every message
std::vector<int32_t> ChatTemplate::RenderLlama3(const Tokenizer& tokenizer,
                                                const std::vector<ChatMessage>& messages) const {
  Transcript out(tokenizer);
  const auto header = [&](std::string_view role) {
    out.Marker("<|start_header_id|>");
    out.Text(role);
    out.Marker("<|end_header_id|>");
    out.Text("\n\n");
  };
  out.Id(tokenizer.bos_id());
  if (dated_system_ && messages[0].role != ChatMessage::Role::kSystem) {
    header("system");
    out.Text(kLlama31Dates);
    out.Marker("<|eot_id|>");
  }
  for (const ChatMessage& message : messages) {
    header(RoleName(message.role));
    const bool leads = &message == &messages.front();
    if (dated_system_ && leads && message.role == ChatMessage::Role::kSystem) out.Text(kLlama31Dates);
    out.Text(PythonStrip(message.text));
    if (&message == &messages.back() && ContinuesAnswer(messages)) return out.Take();
    out.Marker("<|eot_id|>");
  }
  header("assistant");
  return out.Take();
}

// <s>[INST] USER [/INST]ANSWER</s>[INST] USER [/INST], with the spaces that the template has
std::vector<int32_t> ChatTemplate::RenderMistral(const Tokenizer& tokenizer,
                                                 const std::vector<ChatMessage>& messages) const {
  Transcript out(tokenizer);
  const bool has_system = messages[0].role == ChatMessage::Role::kSystem;
  const size_t system_turn = system_in_last_turn_ ? LastUser(messages) : 1;
  out.Id(tokenizer.bos_id());
  for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    const std::string& text = messages[i].text;
    if (messages[i].role == ChatMessage::Role::kUser) {
      out.Marker("[INST]");
      if (space_after_open_) out.Text(" ");
      if (has_system && i == system_turn) {
        out.Text(messages[0].text);
        out.Text("\n\n");
      }
      out.Text(text);
      if (space_before_close_) out.Text(" ");
      out.Marker("[/INST]");
    } else {
      if (space_before_answer_) out.Text(" ");
      out.Text(trim_answer_ ? PythonStrip(text) : std::string_view(text));
      if (i + 1 == messages.size()) break;
      out.Id(tokenizer.eos_id());
      if (space_after_eos_) out.Text(" ");
    }
  }
  return out.Take();
}

// <|im_start|>ROLE\nTEXT<|im_end|>\n for every message
std::vector<int32_t> ChatTemplate::RenderChatMl(const Tokenizer& tokenizer,
                                                const std::vector<ChatMessage>& messages) const {
  Transcript out(tokenizer);
  const auto begin = [&](std::string_view role) {
    out.Marker("<|im_start|>");
    out.Text(role);
    out.Text("\n");
  };
  const auto end = [&] {
    out.Marker("<|im_end|>");
    out.Text("\n");
  };
  if (bos_) out.Id(tokenizer.bos_id());
  if (!default_system_.empty() && messages[0].role != ChatMessage::Role::kSystem) {
    begin("system");
    out.Text(default_system_);
    end();
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    begin(RoleName(messages[i].role));
    out.Text(messages[i].role == ChatMessage::Role::kAssistant ? ChatMlAnswer(messages, i) : messages[i].text);
    if (i + 1 == messages.size() && ContinuesAnswer(messages)) return out.Take();
    end();
  }
  begin("assistant");
  return out.Take();
}

// Qwen3 keeps the reasoning of answers after the last question, and gives the last answer a place for it. Reasoning
// that was broken off continues where it stopped, although the template would close it.
std::string ChatTemplate::ChatMlAnswer(const std::vector<ChatMessage>& messages, size_t i) const {
  const std::string& text = messages[i].text;
  if (!drop_reasoning_) return text;
  const std::string_view answer = WithoutReasoning(text);
  if (!think_in_last_answer_ || i < LastUser(messages)) return std::string(answer);
  const bool is_last = i + 1 == messages.size();
  const std::string_view reasoning = ReasoningOf(text);
  const bool broken_off = reasoning.empty() && text.starts_with("<think>") && !Contains(text, "</think>");
  if (broken_off || (!is_last && reasoning.empty())) return std::string(answer);
  return "<think>\n" + std::string(reasoning) + "\n</think>\n\n" + std::string(TrimStart(answer, "\n"));
}

const char* ChatTemplate::style_name() const {
  switch (style_) {
    case Style::kLlama2: return "Llama 2";
    case Style::kLlama3: return "Llama 3";
    case Style::kMistral: return "Mistral";
    case Style::kChatMl: return "ChatML";
  }
  return "";
}

std::vector<std::string> ChatTemplate::stop_tokens() const {
  switch (style_) {
    case Style::kLlama3: return {"<|eot_id|>"};
    case Style::kChatMl: return {"<|im_end|>"};
    case Style::kLlama2:
    case Style::kMistral: break;
  }
  return {};
}

}  // namespace duo
