// Runs many prompts and scores each answer, with full attention and with duo, for `duo eval ruler` and `duo eval
// longbench`.
#pragma once

#include <string>
#include <vector>

#include "cli/eval_command.h"
#include "eval/scored_reply.h"

namespace duo::cli {

struct TaskPrompt {
  std::string task;     // scores are means over a task
  ScoredPrompt prompt;  // RunTasks adds the mode to its key
};

/// "a,b" -> a, b. Blanks around a name and empty names are left out.
std::vector<std::string> SplitNames(const std::string& text);

/// Runs all prompts in every mode, and calls FinishEval with "tasks" (n, and a score of 0..100 per mode) and "mean".
/// `extra` becomes part of the result. `note` is printed below the table.
Status RunTasks(const EvalCommand& command, EvalRun& run, const std::vector<TaskPrompt>& prompts, Json extra,
                const std::string& note);

}  // namespace duo::cli
