// Flags that `duo eval perplexity` and `duo eval certify` share: windows of a text that is scored.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "cli/eval_command.h"
#include "eval/perplexity.h"

namespace duo::cli {

struct TextScoreOptions {
  int64_t context = 2048;
  int64_t stride = 0;     // 0 = half of the context
  int64_t n_windows = 4;  // 0 = the whole text
  std::string full_logits;
  std::string against;  // file of --full-logits of another configuration

  WindowOptions windows() const {
    return {
        .context = context, .stride = stride > 0 ? stride : std::max<int64_t>(1, context / 2), .n_windows = n_windows};
  }
};

void AddTextScoreOptions(CLI::App* verb, TextScoreOptions* options);
/// Adds --against FILE.
void AddAgainstOption(CLI::App* verb, TextScoreOptions* options);
Json RecipeOf(const TextScoreOptions& options);

/// Scores the run's text with every mode beside full attention. The windows' results go to the run's log.
Result<TextScores> MeasureText(EvalRun& run, const TextScoreOptions& options, const std::vector<SessionOptions>& modes,
                               const ProgressCallback& progress);

}  // namespace duo::cli
