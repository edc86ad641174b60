// One choice of an answer: what its job has reported so far.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "server/answer_format.h"
#include "server/api_request.h"
#include "server/job.h"
#include "server/token_texts.h"

namespace duo {

/// The addition of some news to a choice.
struct AnswerPart {
  bool read_more = false;  // more of the prompt was read, and the choice has not begun
  bool begins = false;     // the choice's first part
  std::string text;
  std::vector<ScoredToken> scored;

  /// Adds the text and the scored tokens of a later part.
  void Append(AnswerPart later);
};

/// Used only by the thread of its connection.
class AnswerChoice {
 public:
  /// The choice of the request's prompt `index`. `request` and `texts` must outlive it.
  AnswerChoice(const CompletionRequest* request, size_t index, const TokenTexts* texts, std::shared_ptr<Job> job);

  /// Waits for news of the job, for at most `seconds`.
  Job::News Take(double seconds) { return job_->Take(seconds); }
  AnswerPart Add(const Job::News& news);
  void Cancel() { job_->Cancel(); }
  /// Cancels the job because the request's time has passed. The text so far is then a valid answer, if there is any.
  void EndForTime();

  bool done() const { return done_; }
  bool out_of_time() const { return out_of_time_; }  // done because the request's time has passed
  // Valid once done.
  const Status& status() const { return status_; }
  const JobStats& stats() const { return stats_; }
  const char* FinishName() const;
  /// The answer's key "duo".
  Json DuoJson() const;
  int64_t n_prompt() const { return std::ssize(job_->request.prompt); }

 private:
  std::string Echo() const;
  /// Whether a token's text is part of the choice's text.
  enum class Shown : uint8_t { kYes, kNo };
  /// Whether the text of prompt token `index` is part of an echo.
  Shown ShownInEcho(size_t index) const;
  void AddScored(int32_t id, Shown shown, const std::optional<LogProbs>& log_probs, AnswerPart* part);
  void End(const Job::News& news);

  const CompletionRequest* request_;
  size_t index_;
  const TokenTexts* texts_;
  std::shared_ptr<Job> job_;
  int64_t n_characters_ = 0;    // of the text up to the last scored token
  int64_t n_read_ = 0;          // prompt tokens that were read
  size_t n_prompt_scored_ = 0;  // prompt tokens whose log probabilities were added
  bool begun_ = false;
  bool done_ = false;
  bool time_is_over_ = false;
  bool out_of_time_ = false;
  JobStats stats_;
  Status status_;
};

}  // namespace duo
