// One prompt, its answer and its score. They are computed once and then read from the log.
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
  int64_t n_reused = 0;  // prompt tokens that were not read again
  uint64_t kv_bytes = 0;
};

/// The question for a key. `prompt` and `score` are called only if the log has no answer yet.
struct ScoredPrompt {
  std::string key;
  std::function<std::vector<int32_t>()> prompt;
  std::function<double(const std::string&)> score;
  GenerateOptions generate = {};
};

/// Looks up the answer in `log`, or runs the prompt and adds the answer to `log`. kCorrupt when the log's record is not
/// a scored reply; other errors as PromptRunner::Run.
Result<ScoredReply> AnswerOnce(const ScoredPrompt& prompt, PromptRunner* runner, ResultLog* log,
                               const ProgressCallback& progress);

}  // namespace duo
