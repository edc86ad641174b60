// duo eval ruler: runs RULER's tasks, on its files or on samples made here.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fnv1a.h"
#include "cli/eval_command.h"
#include "cli/flags.h"
#include "cli/task_eval.h"
#include "eval/ruler.h"

namespace duo::cli {
namespace {

struct RulerCommand {
  EvalCommand eval;
  std::string data;   // empty: samples are made
  std::string tasks;  // separated by commas; empty: all
  int64_t length = 4096;
  int n_samples = 10;
  int64_t limit = 0;  // max samples of a task from files; 0 = all
};

Result<std::vector<RulerSample>> MakeSamples(const RulerCommand& command, const EvalRun& run) {
  std::vector<std::string> tasks = SplitNames(command.tasks);
  if (tasks.empty()) tasks = RulerTasks();
  std::vector<RulerSample> samples;
  for (const std::string& task : tasks) {
    for (int i = 0; i < command.n_samples; ++i) {
      // As in the original, a prompt and its answer together have the given length.
      Result<RulerSample> sample = MakeRulerSample(task, command.length - RulerAnswerTokens(task),
                                                   command.eval.common.seed * 1000003 + i, run.text, run.tokenizer);
      if (!sample.ok()) return sample.status().Annotate("--tasks");
      samples.push_back(std::move(sample).value());
    }
  }
  return samples;
}

Result<std::vector<RulerSample>> LoadSamples(const RulerCommand& command) {
  const std::vector<std::string> tasks = SplitNames(command.tasks);
  Result<std::vector<RulerSample>> loaded = LoadRuler(command.data);
  if (!loaded.ok()) return loaded.status().Annotate("--data");
  std::vector<RulerSample> samples;
  std::map<std::string, int64_t> taken;
  for (RulerSample& sample : *loaded) {
    if (!tasks.empty() && std::find(tasks.begin(), tasks.end(), sample.task) == tasks.end()) continue;
    if (command.limit > 0 && taken[sample.task] >= command.limit) continue;
    ++taken[sample.task];
    samples.push_back(std::move(sample));
  }
  if (samples.empty()) return InvalidArgument("--tasks: none of them is in {}", command.data);
  return samples;
}

Status Run(const RulerCommand& command) {
  std::vector<RulerSample> samples;
  Fnv1a fingerprint;
  if (!command.data.empty()) {
    DUO_ASSIGN_OR_RETURN(samples, LoadSamples(command));
    for (const RulerSample& sample : samples) {
      fingerprint.Add(sample.input.data(), sample.input.size());
      for (const std::string& output : sample.outputs) fingerprint.Add(output.data(), output.size());
    }
  }
  const Json recipe = {{"data", command.data},     {"tasks", command.tasks},
                       {"length", command.length}, {"samples", command.n_samples},
                       {"limit", command.limit},   {"data_fingerprint", fingerprint.Text()}};
  DUO_ASSIGN_OR_RETURN(EvalRun run,
                       BeginEval(command.eval, "ruler", recipe, command.data.empty() ? command.length : 0));
  if (command.data.empty()) {
    DUO_ASSIGN_OR_RETURN(samples, MakeSamples(command, run));
  } else {  // samples from files have lengths of their own
    int64_t longest = 0;
    for (const RulerSample& sample : samples) {
      longest = std::max(longest, std::ssize(run.tokenizer.Encode(sample.input)) + RulerAnswerTokens(sample.task));
    }
    const int64_t context = run.loaded.model.config().ContextFor(command.eval.common.max_context);
    if (context > 0 && longest > context) {
      return InvalidArgument(
          "--data: samples have up to {} tokens, but the context is {}; "
          "--max-context sets another",
          longest, context);
    }
    run.loaded.session.max_context = longest;
  }
  std::vector<TaskPrompt> prompts;
  std::map<std::string, int64_t> index;
  for (const RulerSample& sample : samples) {
    TaskPrompt prompt{
        .task = sample.task,
        .prompt = {
            .key = fmt::format("{}/{}", sample.task, index[sample.task]++),
            .prompt = [&] { return run.tokenizer.Encode(sample.input); },
            .score = [&](const std::string& answer) { return RulerScore(sample.task, answer, sample.outputs); }}};
    prompt.prompt.generate.max_tokens = RulerAnswerTokens(sample.task);
    prompts.push_back(std::move(prompt));
  }
  return RunTasks(command.eval, run, prompts, Json::object(), "");
}

}  // namespace

void AddEvalRuler(CLI::App* verb, VerbFunction* run) {
  auto command = std::make_shared<RulerCommand>();
  CLI::App* ruler = verb->add_subcommand("ruler", "Run RULER: retrieval, variable tracking, word counting.");
  AddText(ruler, "--data", &command->data, "a folder",
          "Folder with RULER's own files, <task>/validation.jsonl (default: samples are made here).")
      ->type_name("PATH");
  AddText(ruler, "--tasks", &command->tasks, "names",
          "Tasks to run, separated by commas (default: all). Samples are made for niah_single_1, niah_multikey_1, vt, "
          "cwe and fwe.")
      ->type_name("A,B,..");
  AddInt(ruler, "--length", {256, int64_t{1} << 30}, &command->length,
         "Tokens of prompt and answer together, in samples made here.")
      ->default_str(std::to_string(command->length));
  AddInt(ruler, "--samples", {1, 100000}, &command->n_samples, "Samples of each task, when samples are made here.")
      ->default_str(std::to_string(command->n_samples));
  AddInt(ruler, "--limit", {0, int64_t{1} << 30}, &command->limit, "Max samples of each task of --data; 0 takes all.")
      ->default_str(std::to_string(command->limit));
  AddEvalOptions(ruler, &command->eval);
  ruler->footer(
      "Example:\n  duo eval ruler --model ~/models/Llama-3.1-8B --pattern learned --sparsity 0.5 --length 16384");
  ruler->callback([command, run] { *run = [command] { return Run(*command); }; });
}

}  // namespace duo::cli
