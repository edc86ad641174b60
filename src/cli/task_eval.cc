#include "cli/task_eval.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "base/progress_counter.h"
#include "base/strings.h"
#include "cli/flags.h"
#include "cli/terminal.h"

namespace duo::cli {
namespace {

struct TaskScores {
  int64_t n = 0;
  std::map<std::string, double> sums;  // by mode
};
using Scores = std::map<std::string, TaskScores>;

Status RunMode(EvalRun& run, const EvalMode& mode, const std::vector<TaskPrompt>& prompts,
               const ProgressCallback& progress, Scores* scores) {
  DUO_ASSIGN_OR_RETURN(PromptRunner runner, PromptRunner::Create(run.loaded.model, run.tokenizer, mode.session));
  ProgressCounter counter(progress, "prompts", "prompts", std::ssize(prompts));
  for (const TaskPrompt& task : prompts) {
    ScoredPrompt prompt = task.prompt;
    prompt.key = mode.name + "/" + prompt.key;
    DUO_ASSIGN_OR_RETURN(const ScoredReply reply, AnswerOnce(prompt, &runner, &run.log, counter.Callback()));
    (*scores)[task.task].sums[mode.name] += reply.score;
    DUO_RETURN_IF_ERROR(counter.Add(1));
  }
  return OkStatus();
}

}  // namespace

std::vector<std::string> SplitNames(const std::string& text) {
  std::vector<std::string> names;
  for (const std::string& word : SplitAtCommas(text)) {
    if (const std::string_view name = Trim(word, " "); !name.empty()) names.emplace_back(name);
  }
  return names;
}

Status RunTasks(const EvalCommand& command, EvalRun& run, const std::vector<TaskPrompt>& prompts, Json extra,
                const std::string& note) {
  const std::vector<EvalMode> modes = run.Modes();
  Scores scores;
  for (const TaskPrompt& prompt : prompts) ++scores[prompt.task].n;
  ProgressBar bar(command.common.progress);
  for (const EvalMode& mode : modes) {
    bar.SetLabel(mode.name);
    DUO_RETURN_IF_ERROR(RunMode(run, mode, prompts, bar.Callback(), &scores));
  }
  bar.Finish();
  Json result = std::move(extra);
  std::map<std::string, double> totals;
  std::string text = fmt::format("{:<24} {:>5}", "task", "n");
  for (const EvalMode& mode : modes) text += fmt::format(" {:>7}", mode.name);
  text += "\n";
  for (const auto& [task, of] : scores) {
    text += fmt::format("{:<24} {:>5}", task, of.n);
    result["tasks"][task]["n"] = of.n;
    for (const EvalMode& mode : modes) {
      const double score = 100 * of.sums.at(mode.name) / static_cast<double>(of.n);
      result["tasks"][task][mode.name] = score;
      totals[mode.name] += score;
      text += fmt::format(" {:>7.2f}", score);
    }
    text += "\n";
  }
  text += fmt::format("{:<30}", "mean");
  for (const EvalMode& mode : modes) {
    const double mean = totals[mode.name] / static_cast<double>(scores.size());
    result["mean"][mode.name] = mean;
    text += fmt::format(" {:>7.2f}", mean);
  }
  return FinishEval(command, run, std::move(result), text + "\n" + note);
}

}  // namespace duo::cli
