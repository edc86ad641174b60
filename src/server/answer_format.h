// The parts of an answer that differ between text and chat, as OpenAI defines them. server/answer.cc has the rest.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/serving.h"
#include "server/api_request.h"
#include "server/token_texts.h"

namespace duo {

/// A token of a choice whose log probabilities are part of the answer.
struct ScoredToken {
  std::string text;
  int64_t offset = 0;                 // characters of the choice's text before it
  std::optional<LogProbs> log_probs;  // a prompt's first token has none
};

/// Has no state, so it is thread safe.
class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;

  /// The "object" of a whole answer, and of every event of a stream.
  virtual const char* WholeObject() const = 0;
  virtual const char* EventObject() const = 0;

  /// The members that a choice has for its text: in a whole answer, in an event with new text, and in its last event.
  virtual Json WholeText(const std::string& text) const = 0;
  virtual Json NewText(const std::string& text) const = 0;
  virtual Json EndOfText() const = 0;
  /// These members in a choice's first event, before any text. Null when there is no such event.
  virtual Json BeginOfText() const = 0;

  /// A choice's "logprobs".
  virtual Json LogProbsJson(const std::vector<ScoredToken>& tokens, const TokenTexts& texts) const = 0;
};

/// Lives as long as the process.
const AnswerFormat& FormatOf(CompletionKind kind);

}  // namespace duo
