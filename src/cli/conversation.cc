#include "cli/conversation.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/common_prefix.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory_info.h"
#include "cli/json_output.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "duo/chat_turn.h"

namespace duo::cli {
namespace {

const char* RoleName(ChatMessage::Role role) {
  switch (role) {
    case ChatMessage::Role::kSystem: return "system";
    case ChatMessage::Role::kUser: return "user";
    case ChatMessage::Role::kAssistant: return "assistant";
  }
  return "";
}

}  // namespace

LocalConversation::LocalConversation(ConversationOptions options, LoadedModel loaded, Tokenizer tokenizer,
                                     ChatTemplate style)
    : options_(std::move(options)),
      loaded_(std::move(loaded)),
      tokenizer_(std::move(tokenizer)),
      style_(std::move(style)) {}

Result<std::unique_ptr<Conversation>> LocalConversation::Open(const CommonOptions& common,
                                                              const ConversationOptions& options) {
  DUO_ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(common));
  NoteCertificate(loaded);
  NoteMeasuredLoss(loaded);
  DUO_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Open(loaded.dir));
  const Result<ChatTemplate> style = ChatTemplate::Recognise(tokenizer);
  if (!style.ok()) return style.status().Annotate(loaded.dir);
  std::unique_ptr<LocalConversation> conversation(
      new LocalConversation(options, std::move(loaded), std::move(tokenizer), *style));
  if (!options.system.empty()) {
    conversation->messages_.push_back({ChatMessage::Role::kSystem, options.system});
    DUO_ASSIGN_OR_RETURN(conversation->system_tokens_,
                         SystemPromptTokens(conversation->tokenizer_, *style, conversation->messages_[0]));
    if (!common.pinned_prefix) conversation->loaded_.session.pinned_prefix = conversation->system_tokens_;
  }
  AddTurnEnds(conversation->tokenizer_, *style, &conversation->options_.generate);
  DUO_RETURN_IF_ERROR(conversation->Start());
  return std::unique_ptr<Conversation>(std::move(conversation));
}

Status LocalConversation::Start() {
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(loaded_.model, loaded_.session));
  session_ = std::make_unique<Session>(std::move(session));
  return OkStatus();
}

Status LocalConversation::Ask(const std::string& question) {
  messages_.push_back({ChatMessage::Role::kUser, question});
  Result<Turn> turn = Answer();
  if (!turn.ok()) {
    messages_.pop_back();
    return turn.status();
  }
  messages_.push_back({ChatMessage::Role::kAssistant, turn->result.text});
  turns_.push_back(*std::move(turn));
  return OkStatus();
}

// Encoding the text of an answer may give other tokens than were generated, and templates trim text. So the session
// keeps the tokens that it has in common with the conversation as rendered now, and runs the others. At least one token
// is left to run, for its logits.
Result<LocalConversation::Turn> LocalConversation::Answer() {
  DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, style_.Render(tokenizer_, messages_));
  if (ids.empty()) return InvalidArgument("the conversation has no tokens");
  ProgressBar bar(options_.progress);
  Turn turn;
  turn.reused = std::min(CommonPrefix(ids, session_->tokens()), std::ssize(ids) - 1);
  turn.prefilled = std::ssize(ids) - turn.reused;
  DUO_RETURN_IF_ERROR(session_->Rewind(turn.reused, bar.Callback()));

  GenerateOptions generate = options_.generate;
  generate.sampler.seed += turns_.size();
  Status shown;
  const auto show = [&](const std::string& text) {
    bar.Finish();
    if (options_.show_answers) shown = WriteOut(text);
    return shown.ok() && !Interrupted();
  };
  const std::vector<int32_t> rest(ids.begin() + turn.reused, ids.end());
  DUO_ASSIGN_OR_RETURN(turn.result,
                       Generate(session_.get(), loaded_.model, &tokenizer_, rest, generate, show, bar.Callback()));
  if (options_.show_answers && shown.ok()) shown = WriteOut("\n");
  DUO_RETURN_IF_ERROR(shown);
  return turn;
}

Status LocalConversation::Undo() {
  if (turns_.empty()) return InvalidArgument("/undo: there is no question to forget");
  const int64_t keep = std::min(turns_.back().reused, session_->len());
  turns_.pop_back();
  messages_.resize(messages_.size() - 2);
  ProgressBar bar(options_.progress);
  return session_->Rewind(keep, bar.Callback());
}

Status LocalConversation::Reset() {
  turns_.clear();
  const bool has_system = !messages_.empty() && messages_[0].role == ChatMessage::Role::kSystem;
  messages_.resize(has_system ? 1 : 0);
  ProgressBar bar(options_.progress);
  return session_->Rewind(std::min(system_tokens_, session_->len()), bar.Callback());
}

Json Conversation::MessagesJson() const {
  Json messages = Json::array();
  for (const ChatMessage& message : messages_) {
    messages.push_back({{"role", RoleName(message.role)}, {"content", message.text}});
  }
  return messages;
}

Status Conversation::Save(const std::string& path) const {
  const std::string suffix = ".json";
  const bool as_json =
      path.size() > suffix.size() && path.compare(path.size() - suffix.size(), suffix.size(), suffix) == 0;
  if (as_json) return WriteFileAtomic(path, JsonText(MessagesJson(), 2) + "\n");
  std::string text;
  for (const ChatMessage& message : messages_) {
    text += fmt::format("{}## {}\n\n{}\n", text.empty() ? "" : "\n", RoleName(message.role), message.text);
  }
  return WriteFileAtomic(path, text);
}

Json LocalConversation::ToJson() const {
  Json turns = Json::array();
  for (const Turn& turn : turns_) {
    turns.push_back({{"finish", FinishReasonName(turn.result.finish)},
                     {"reused_tokens", turn.reused},
                     {"timings", TimingsJson(turn.result, turn.prefilled)}});
  }
  return {{"messages", MessagesJson()},
          {"turns", std::move(turns)},
          {"memory", MemoryJson(*session_)},
          {"heads", HeadsJson(session_->options())}};
}

std::string LocalConversation::Describe() const {
  const SessionOptions& options = session_->options();
  return fmt::format("{}, {} template, {} of {} KV heads streaming, context {} tokens", loaded_.model.config().name,
                     style_.style_name(),
                     static_cast<int>(options.heads.retrieval.size()) - options.heads.n_retrieval(),
                     options.heads.retrieval.size(), FormatCount(options.max_context));
}

}  // namespace duo::cli
