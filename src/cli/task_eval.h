// Running many prompts with a score each, full attention and duo: what `duo eval ruler` and `duo eval longbench` share.
#pragma once

#include <string>
#include <vector>

#include "cli/eval_command.h"
#include "eval/scored_reply.h"

namespace duo::cli {

struct TaskPrompt {
  std::string task;     // scores are means over a task
  ScoredPrompt prompt;  // its key is told apart by mode here
};

/// "a,b" -> a, b; blanks around a name and empty names are left out.
std::vector<std::string> SplitNames(const std::string& text);

/// Runs all prompts in every mode, then FinishEval with "tasks" (n and a score of 0..100 per mode) and "mean"; `extra`
/// is put into the result, `note` below the table.
Status RunTasks(const EvalCommand& command, EvalRun& run, const std::vector<TaskPrompt>& prompts, Json extra,
                const std::string& note);

}  // namespace duo::cli
