// The answer to a completion as it takes shape: one JSON object, or a stream of server-sent events.
#pragma once

#include <httplib.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "duo/tokenizer.h"
#include "server/api_request.h"
#include "server/job.h"

namespace duo {

/// Of one request. Used by the thread of its connection alone. `tokenizer` must outlive it.
class AnswerWriter : public std::enable_shared_from_this<AnswerWriter> {
 public:
  /// After `max_seconds` (0 = never) the answer ends with what there is, or, when that is nothing, with an error.
  AnswerWriter(CompletionKind kind, CompletionRequest request, std::string id, std::string model,
               const Tokenizer* tokenizer, double max_seconds);

  using Jobs = std::vector<std::shared_ptr<Job>>;
  /// Waits for all jobs; when the client leaves, they are cancelled. An error before any text is the request's error.
  std::optional<ApiError> Wait(Jobs jobs, httplib::Response* response);
  /// Leaves the answer to a provider that *response keeps, which holds this object; hence the shared pointer. A job
  /// that fails at once is the request's error. `until_written` is let go of when all is written or the client has
  /// gone.
  std::optional<ApiError> Stream(Jobs jobs, httplib::Response* response, std::shared_ptr<void> until_written);

 private:
  /// What has been said of one choice.
  // NOLINTNEXTLINE(bugprone-exception-escape): moving a Json throws nothing, its assertions only look like it
  struct Choice {
    std::shared_ptr<Job> job;
    std::string text;
    Json log_probs;                  // in the shape of this kind of answer; null when not asked for
    int64_t n_characters = 0;        // of text, for text_offset
    int64_t n_read_shown = 0;        // tokens of the prompt, in comments
    int64_t n_prompt_log_probs = 0;  // of its tokens
    bool begun = false;
    bool done = false;
    bool out_of_time = false;  // done because the request's time was over
    JobStats stats;
    Status status;
  };

  void Begin(Jobs jobs);
  /// The parts of WriteNews; false when the client has gone.
  bool WriteChoice(size_t index, const Job::News& news, httplib::DataSink* sink);
  bool WriteEnd(httplib::DataSink* sink) const;
  /// Takes a job's news into its choice. Returns the text that is new; the log probabilities that are new replace
  /// *new_log_probs.
  std::string Update(Choice* choice, const Job::News& news, Json* new_log_probs);
  /// Whether a token's text is part of a choice's text.
  enum class Shown : uint8_t { kYes, kNo };
  /// That of token `index` of the prompt in an echo of it.
  Shown ShownInEcho(const Choice& choice, size_t index) const;
  void AddLogProbs(Choice* choice, int32_t id, Shown shown, const std::optional<LogProbs>& log_probs, Json* to);
  Json EmptyLogProbs() const;
  std::string TokenText(int32_t id) const;

  Json Head(const char* object) const;
  Json Usage() const;
  Json DuoJson(const Choice& choice) const;
  Json Whole() const;
  Json Chunk(size_t index, Json content, const char* finish) const;
  static const char* FinishName(const Choice& choice);
  /// Writes what is new; false when the client has gone or all is said.
  bool WriteNews(httplib::DataSink* sink);
  bool Send(httplib::DataSink* sink, const Json& event) const;
  void CancelAll();
  /// Cancels all jobs once the time is over.
  void CheckTime();
  ApiError ErrorOf(const Choice& choice) const;

  const CompletionKind kind_;
  const CompletionRequest request_;
  const std::string id_;
  const std::string model_;
  const Tokenizer* tokenizer_;
  const int64_t created_;
  const double max_seconds_;
  const Clock::time_point begun_ = Clock::now();
  bool time_is_over_ = false;
  int32_t before_ = -1;  // a token to stand before others, and its text
  std::string before_text_;
  std::vector<Choice> choices_;
  Clock::time_point silent_since_ = Clock::now();
};

}  // namespace duo
