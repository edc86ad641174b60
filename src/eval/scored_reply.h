// One prompt, its answer and its score: computed once, then taken from the log.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "duo/result.h"
#include "eval/prompt_runner.h"
#include "eval/result_log.h"

namespace duo {

struct ScoredReply {
  double score = 0;
  std::string answer;
  int64_t n_prompt = 0;  // tokens
  int64_t n_reused = 0;  // of them, not read again
  uint64_t kv_bytes = 0;
};

/// What is asked under a key. `prompt` and `score` are called only when the log has no answer yet.
struct ScoredPrompt {
  std::string key;
  std::function<std::vector<int32_t>()> prompt;
  std::function<double(const std::string&)> score;
  GenerateOptions generate = {};
};

/// Looked up in `log`, or run and added to it. kCorrupt: the log's record is not one of these; else as
/// PromptRunner::Run.
Result<ScoredReply> AnswerOnce(const ScoredPrompt& prompt, PromptRunner* runner, ResultLog* log,
                               const ProgressCallback& progress);

}  // namespace duo
