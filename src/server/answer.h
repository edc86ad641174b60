// Builds the answer to a completion: one JSON object, or a stream of server-sent events.
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

/// Writes the answer to one request. Used only by the thread of its connection. `tokenizer` must outlive it.
class AnswerWriter : public std::enable_shared_from_this<AnswerWriter> {
 public:
  /// After `max_seconds` (0 = no limit) the answer ends with the text so far, or with an error when there is none.
  AnswerWriter(CompletionKind kind, CompletionRequest request, std::string id, std::string model,
               const Tokenizer* tokenizer, double max_seconds);

  using Jobs = std::vector<std::shared_ptr<Job>>;
  /// Waits for all jobs and puts the answer into *response. Cancels the jobs when the client leaves. When a job fails,
  /// its error is the request's error.
  std::optional<ApiError> Wait(Jobs jobs, httplib::Response* response);
  /// Streams the answer through a provider that *response keeps. The provider holds this object, hence the shared
  /// pointer. When the first job fails at once, its error is the request's error. `until_written` is released when the
  /// whole answer is written or the client has gone.
  std::optional<ApiError> Stream(Jobs jobs, httplib::Response* response, std::shared_ptr<void> until_written);

 private:
  /// One choice: its job, and its part of the answer so far.
  // NOLINTNEXTLINE(bugprone-exception-escape): moving a Json does not throw, its assertions only look like it
  struct Choice {
    std::shared_ptr<Job> job;
    std::string text;
    Json log_probs;                  // in the format of this kind of answer; null when not requested
    int64_t n_characters = 0;        // characters of `text`, for text_offset
    int64_t n_read_shown = 0;        // prompt tokens that the last progress comment reported
    int64_t n_prompt_log_probs = 0;  // prompt tokens whose log probabilities were added
    bool begun = false;
    bool done = false;
    bool out_of_time = false;  // done because max_seconds passed
    JobStats stats;
    Status status;
  };

  void Begin(Jobs jobs);
  /// Steps of WriteNews. They return false when the client has gone or the choice failed.
  bool WriteChoice(size_t index, const Job::News& news, httplib::DataSink* sink);
  bool WriteEnd(httplib::DataSink* sink) const;
  /// Adds a job's news to its choice. Returns the new text and sets *new_log_probs to the new log probabilities.
  std::string Update(Choice* choice, const Job::News& news, Json* new_log_probs);
  /// Whether a token's text is part of a choice's text.
  enum class Shown : uint8_t { kYes, kNo };
  /// Whether the text of prompt token `index` is part of an echo.
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
  /// Writes the news of all choices, and the end after the last news. False when the client has gone or a choice
  /// failed.
  bool WriteNews(httplib::DataSink* sink);
  bool Send(httplib::DataSink* sink, const Json& event) const;
  void CancelAll();
  /// Cancels all jobs once max_seconds have passed.
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
  int32_t before_ = -1;  // a token that TokenText decodes before another one, and its text; -1 = none
  std::string before_text_;
  std::vector<Choice> choices_;
  Clock::time_point silent_since_ = Clock::now();
};

}  // namespace duo
