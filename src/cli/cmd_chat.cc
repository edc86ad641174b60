// duo chat: a conversation through the model's own template. The session lives across turns: only what is new is
// prefilled, and what the conversation no longer holds is rewound.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/memory_info.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/sampling_options.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "duo/generate.h"
#include "duo/tokenizer.h"

namespace duo::cli {
namespace {

constexpr const char* kHelp =
    "/help         this list\n"
    "/undo         forget the last question and its answer\n"
    "/reset        forget the whole conversation, but for the system prompt\n"
    "/save FILE    write the conversation: JSON when FILE ends in .json, text otherwise\n"
    "/quit         leave (so does the end of the input)\n"
    "A line that ends in \\ goes on in the next one. Ctrl-C ends an answer.\n";

struct ChatCommand {
  CommonOptions common;
  GenerateOptions generate;
  std::string system;
};

size_t CommonPrefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  const auto ends = std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(std::min(a.size(), b.size())),
                                  b.begin());
  return static_cast<size_t>(ends.first - a.begin());
}

const char* RoleName(ChatMessage::Role role) {
  switch (role) {
    case ChatMessage::Role::kSystem: return "system";
    case ChatMessage::Role::kUser: return "user";
    case ChatMessage::Role::kAssistant: return "assistant";
  }
  return "";
}

/// The tokens of the system prompt with what the template puts before it: what any two conversations share.
Result<int64_t> SystemPrefix(const Tokenizer& tokenizer, const ChatTemplate& style,
                             const std::vector<ChatMessage>& system) {
  std::vector<ChatMessage> a = system, b = system;
  a.push_back({ChatMessage::Role::kUser, "a"});
  b.push_back({ChatMessage::Role::kUser, "1"});
  DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids_a, style.Render(tokenizer, a));
  DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids_b, style.Render(tokenizer, b));
  return static_cast<int64_t>(CommonPrefix(ids_a, ids_b));
}

/// Messages and the session that has them in its cache.
class Conversation {
 public:
  static Result<Conversation> Open(const ChatCommand& command);

  /// One question and its answer, which goes to stdout as it comes unless --json. After an error the question is
  /// forgotten. Ctrl-C keeps the answer so far.
  Status Ask(const std::string& question);
  /// False when there is nothing to undo.
  Result<bool> Undo();
  Status Reset();
  Status Save(const std::string& path) const;
  Json ToJson() const;

 private:
  struct Turn {
    int64_t begin = 0;  // tokens the session shared with the conversation before this turn
    int64_t prefilled = 0;
    GenerateResult result;
  };
  Conversation(const ChatCommand& command, LoadedModel loaded, Tokenizer tokenizer, ChatTemplate style, Session session,
               std::vector<ChatMessage> messages);
  Json MessagesJson() const;
  Status Answer(ProgressBar* bar, Turn* turn);

  const ChatCommand* command_;
  std::unique_ptr<LoadedModel> loaded_;  // at a fixed address: the session borrows the model
  std::unique_ptr<Tokenizer> tokenizer_;
  ChatTemplate style_;
  Session session_;
  std::vector<ChatMessage> messages_;
  std::vector<Turn> turns_;
  GenerateOptions options_;
};

Conversation::Conversation(const ChatCommand& command, LoadedModel loaded, Tokenizer tokenizer, ChatTemplate style,
                           Session session, std::vector<ChatMessage> messages)
    : command_(&command),
      loaded_(std::make_unique<LoadedModel>(std::move(loaded))),
      tokenizer_(std::make_unique<Tokenizer>(std::move(tokenizer))),
      style_(style),
      session_(std::move(session)),
      messages_(std::move(messages)),
      options_(command.generate) {}

}  // namespace
}  // namespace duo::cli
