// A conversation through a model's own chat template. One session lives across turns: it prefills only new tokens, and
// rewinds tokens that the conversation no longer holds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/common_options.h"
#include "cli/progress_bar.h"
#include "duo/generate.h"
#include "duo/tokenizer.h"

namespace duo::cli {

/// A conversation of `duo chat`. Not thread safe.
class Conversation {
 public:
  virtual ~Conversation() = default;
  /// Asks one question and shows its answer. After an error (kCancelled: Ctrl-C before the answer began) the question
  /// is forgotten. Ctrl-C during the answer is not an error: the answer so far is kept.
  virtual Status Ask(const std::string& question) = 0;
  /// Forgets the last question and its answer. kInvalidArgument when there is none.
  virtual Status Undo() = 0;
  /// Forgets everything except the system prompt.
  virtual Status Reset() = 0;
  /// Writes JSON [{"role","content"}...] when `path` ends in .json, else text with a heading per message. kIo.
  Status Save(const std::string& path) const;
  /// {"messages":[...],"turns":[{"finish","reused_tokens","timings"}...]...}
  virtual Json ToJson() const = 0;
  /// Describes model, template, heads and context, for people.
  virtual std::string Describe() const = 0;

 protected:
  Json MessagesJson() const;
  std::vector<ChatMessage> messages_;
};

struct ConversationOptions {
  std::string system;        // empty = none
  GenerateOptions generate;  // of every answer; turn n draws with seed + n
  bool show_answers = true;  // on stdout as they are generated
  ProgressBar::Show progress = ProgressBar::Show::kAuto;
};

/// A conversation with a model in this process.
class LocalConversation : public Conversation {
 public:
  /// Opens model, tokenizer and template. The system prompt is pinned, with the tokens that the template puts before
  /// it, unless --pinned-prefix says otherwise. kUnsupported when the model has no template that duo knows.
  static Result<std::unique_ptr<Conversation>> Open(const CommonOptions& common, const ConversationOptions& options);

  Status Ask(const std::string& question) override;
  Status Undo() override;
  Status Reset() override;
  /// Adds "memory" and "heads".
  Json ToJson() const override;
  std::string Describe() const override;

 private:
  struct Turn {
    int64_t reused = 0;     // tokens of this turn's prompt that the session already had
    int64_t prefilled = 0;  // the other tokens of this turn's prompt
    GenerateResult result;
  };

  LocalConversation(ConversationOptions options, LoadedModel loaded, Tokenizer tokenizer, ChatTemplate style);
  Status Start();
  Result<Turn> Answer();

  ConversationOptions options_;
  LoadedModel loaded_;
  Tokenizer tokenizer_;
  ChatTemplate style_;
  int64_t system_tokens_ = 0;         // tokens that every conversation with this system prompt begins with
  std::unique_ptr<Session> session_;  // borrows loaded_.model
  std::vector<Turn> turns_;
};

}  // namespace duo::cli
