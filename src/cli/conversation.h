// A conversation through a model's own template. One session lives across turns: only what is new is prefilled, and
// what the conversation no longer holds is rewound.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/common_options.h"
#include "cli/terminal.h"
#include "duo/generate.h"
#include "duo/tokenizer.h"

namespace duo::cli {

/// What `duo chat` talks to. Not thread safe.
class Conversation {
 public:
  virtual ~Conversation() = default;
  /// One question and its answer. After an error (kCancelled: Ctrl-C before the answer began) the question is
  /// forgotten. Ctrl-C during the answer is no error: the answer so far stands.
  virtual Status Ask(const std::string& question) = 0;
  /// Forgets the last question and its answer. kInvalidArgument when there is none.
  virtual Status Undo() = 0;
  /// Forgets everything but the system prompt.
  virtual Status Reset() = 0;
  /// JSON [{"role","content"}...] when `path` ends in .json, text with a heading per message otherwise. kIo.
  Status Save(const std::string& path) const;
  /// {"messages":[...],"turns":[{"finish","reused_tokens","timings"}...]...}
  virtual Json ToJson() const = 0;
  /// For people: model, template, heads, context.
  virtual std::string Describe() const = 0;

 protected:
  Json MessagesJson() const;
  std::vector<ChatMessage> messages_;
};

struct ConversationOptions {
  std::string system;        // empty = none
  GenerateOptions generate;  // of every answer; turn n draws with seed + n
  bool show_answers = true;  // on stdout as they come
  ProgressBar::Show progress = ProgressBar::Show::kAuto;
};

/// With a model of this process.
class LocalConversation : public Conversation {
 public:
  /// Opens model, tokenizer and template. The system prompt with what the template puts before it is pinned unless
  /// --pinned-prefix says otherwise. kUnsupported when the model has no template that duo knows.
  static Result<std::unique_ptr<Conversation>> Open(const CommonOptions& common, const ConversationOptions& options);

  Status Ask(const std::string& question) override;
  Status Undo() override;
  Status Reset() override;
  /// Also "memory" and "heads".
  Json ToJson() const override;
  std::string Describe() const override;

 private:
  struct Turn {
    int64_t reused = 0;     // tokens of this turn's prompt that the session already had
    int64_t prefilled = 0;  // the others
    GenerateResult result;
  };

  LocalConversation(ConversationOptions options, LoadedModel loaded, Tokenizer tokenizer, ChatTemplate style);
  Status Start();
  Result<Turn> Answer();

  ConversationOptions options_;
  LoadedModel loaded_;
  Tokenizer tokenizer_;
  ChatTemplate style_;
  int64_t system_tokens_ = 0;         // what every conversation with this system prompt begins with
  std::unique_ptr<Session> session_;  // borrows loaded_.model
  std::vector<Turn> turns_;
};

}  // namespace duo::cli
