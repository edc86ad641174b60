// Handles /v1/completions and /v1/chat/completions, from a request's body to the answer, whole or streamed.
#pragma once

#include <httplib.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "duo/tokenizer.h"
#include "server/api_request.h"
#include "server/scheduler.h"
#include "server/session_store.h"

namespace duo {

struct CompletionDefaults {
  std::string model_name;
  int64_t max_tokens = 1024;      // of a chat answer whose request sets no limit
  int64_t max_prompt_tokens = 0;  // 0 = the context
  double max_seconds = 0;         // per request; 0 = no limit
  uint64_t seed = 0;              // for requests without a seed, plus an offset by number; 0 = a random one for each
};

/// A number of streams. Thread safe. Must outlive its tokens.
class StreamCounter {
 public:
  /// Counts one stream while it exists.
  class Token {
   public:
    explicit Token(StreamCounter* counter) : counter_(counter) { ++counter_->n_streams_; }
    ~Token() { --counter_->n_streams_; }
    Token(const Token&) = delete;
    Token& operator=(const Token&) = delete;

   private:
    StreamCounter* counter_;
  };
  int64_t n_streams() const { return n_streams_; }

 private:
  std::atomic<int64_t> n_streams_ = 0;
};

/// Thread safe. It, and everything it is given, must outlive all answers that are still being streamed.
class CompletionApi {
 public:
  CompletionApi(const Model* model, const Tokenizer* tokenizer, std::optional<ChatTemplate> chat,
                const CacheDefaults* cache, CompletionDefaults defaults, Scheduler* scheduler, SessionStore* sessions);

  /// Puts the answer, or the provider that streams it, into *response. Returns an error found before the first byte.
  ApiStatus Complete(CompletionKind kind, const Caller& caller, const std::string& body, httplib::Response* response);

  /// The tokens of a text or conversation.
  ApiResult<std::vector<int32_t>> Tokenize(const TokenizeRequest& request) const;

  /// Streamed answers that are not completely written yet.
  int64_t n_streams() const { return streams_.n_streams(); }

 private:
  /// One job for each prompt, checked.
  ApiResult<std::vector<JobRequest>> MakeJobs(CompletionKind kind, const Caller& caller,
                                              const CompletionRequest& request, uint64_t number) const;
  /// The members that all jobs of a request share, except those that ResolveJob sets.
  JobRequest SharedJob(CompletionKind kind, const Caller& caller, const CompletionRequest& request,
                       uint64_t number) const;
  /// The tokens of each prompt. A chat also sets where *job ends, and the prefix it pins.
  ApiResult<std::vector<std::vector<int32_t>>> Prompts(CompletionKind kind, const CompletionRequest& request,
                                                       JobRequest* job) const;
  /// Resolves the job's `spec` and checks its options.
  ApiStatus ResolveJob(JobRequest* job) const;
  ApiResult<std::vector<int32_t>> Render(const std::vector<ChatMessage>& messages) const;
  ApiStatus CheckLength(const CompletionRequest& request, JobRequest* job) const;
  static ApiStatus CheckLogProbs(const CompletionRequest& request, const std::vector<JobRequest>& jobs);

  const Model* model_;
  const Tokenizer* tokenizer_;
  std::optional<ChatTemplate> chat_;
  const CacheDefaults* cache_;
  CompletionDefaults defaults_;
  Scheduler* scheduler_;
  SessionStore* sessions_;
  std::atomic<uint64_t> n_requests_ = 0;
  StreamCounter streams_;  // every streamed answer holds a token
};

}  // namespace duo
