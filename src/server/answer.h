// Builds the answer to a completion: one JSON object, or a stream of server-sent events.
#pragma once

#include <httplib.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "duo/tokenizer.h"
#include "server/answer_choice.h"
#include "server/answer_format.h"
#include "server/api_request.h"
#include "server/job.h"
#include "server/token_texts.h"

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
  ApiStatus Wait(Jobs jobs, httplib::Response* response);
  /// Streams the answer through a provider that *response keeps. The provider holds this object, hence the shared
  /// pointer. When the first job fails at once, its error is the request's error. `until_written` is released when the
  /// whole answer is written or the client has gone.
  ApiStatus Stream(Jobs jobs, httplib::Response* response, std::shared_ptr<void> until_written);

 private:
  void Begin(Jobs jobs);
  void CancelAll();
  /// Cancels all jobs once max_seconds have passed.
  void CheckTime();

  /// Writes the news of all choices, and the end after the last news. False when the client has gone or a choice
  /// failed.
  bool WriteNews(httplib::DataSink* sink);
  /// Steps of WriteNews. They return false when the client has gone or the choice failed.
  bool WriteChoice(size_t index, const Job::News& news, httplib::DataSink* sink);
  bool WritePart(size_t index, const AnswerPart& part, httplib::DataSink* sink);
  bool WriteEndOfChoice(size_t index, httplib::DataSink* sink);
  bool WriteEnd(httplib::DataSink* sink) const;

  Json Head(const char* object) const;
  Json Usage() const;
  /// The answer without a stream. `parts` has everything of each choice.
  Json Whole(const std::vector<AnswerPart>& parts) const;
  /// An event of a stream. `content` has the members for the choice's text, and "logprobs" when it has any.
  Json Event(size_t index, Json content, const char* finish) const;
  ApiError ErrorOf(const AnswerChoice& choice) const;

  const AnswerFormat& format_;
  const CompletionRequest request_;
  const std::string id_;
  const std::string model_;
  const TokenTexts texts_;
  const int64_t created_;
  const double max_seconds_;
  const Clock::time_point begun_ = Clock::now();
  bool time_is_over_ = false;
  std::vector<AnswerChoice> choices_;
  Clock::time_point silent_since_ = Clock::now();
};

}  // namespace duo
