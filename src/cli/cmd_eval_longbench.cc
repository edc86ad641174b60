// duo eval longbench: runs versions 1 and 2 of LongBench on the files as downloaded.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fnv1a.h"
#include "cli/eval_command.h"
#include "cli/flags.h"
#include "cli/task_eval.h"
#include "cli/terminal.h"
#include "duo/chat_turn.h"
#include "eval/longbench.h"

namespace duo::cli {
namespace {

struct LongBenchCommand {
  EvalCommand eval;
  std::string data;
  std::string tasks;
  int64_t limit = 0;
  int64_t max_length = 0;  // max tokens of a prompt; 0 = the context minus the answer
  bool no_chat = false;
};

/// The prompt's tokens, in the model's chat template when the task uses one and the model has one.
Result<std::vector<int32_t>> PromptIds(const Tokenizer& tokenizer, const std::optional<ChatTemplate>& chat,
                                       const LongBenchSample& sample, int64_t max_tokens) {
  // As in the original, the middle of the text is cut out before the template is applied.
  std::vector<int32_t> ids = tokenizer.Encode(sample.prompt, SpecialTokens::kNone);
  constexpr int64_t kTemplateTokens = 64;
  const bool in_chat = chat && LongBenchUsesChat(sample.task);
  const int64_t room = max_tokens - (in_chat ? kTemplateTokens : 1);
  std::string text = sample.prompt;
  if (std::ssize(ids) > room) text = tokenizer.Decode(TruncateMiddle(std::move(ids), room));
  if (!in_chat) return tokenizer.Encode(text);
  return chat->Render(tokenizer, {{ChatMessage::Role::kUser, text}});
}

/// The prompts borrow the samples.
Result<std::vector<TaskPrompt>> MakePrompts(const Tokenizer& tokenizer, const std::optional<ChatTemplate>& chat,
                                            const std::vector<LongBenchSample>& samples, int64_t max_tokens) {
  std::vector<TaskPrompt> prompts;
  for (const LongBenchSample& sample : samples) {
    DUO_ASSIGN_OR_RETURN(std::vector<int32_t> ids, PromptIds(tokenizer, chat, sample, max_tokens));
    TaskPrompt prompt{.task = sample.group.empty() ? sample.task : sample.task + " " + sample.group,
                      .prompt = {.key = fmt::format("{}/{}", sample.task, sample.index),
                                 .prompt = [ids = std::move(ids)] { return ids; },
                                 .score = [&](const std::string& text) { return LongBenchScore(sample, text); }}};
    prompt.prompt.generate.max_tokens = LongBenchAnswerTokens(sample.task);
    if (chat && LongBenchUsesChat(sample.task)) AddTurnEnds(tokenizer, *chat, &prompt.prompt.generate);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

Status Run(const LongBenchCommand& command) {
  Result<std::vector<LongBenchSample>> samples = LoadLongBench(command.data, SplitNames(command.tasks), command.limit);
  if (!samples.ok()) {
    const bool is_about_tasks = !samples.status().subject().empty();
    return is_about_tasks ? samples.status() : samples.status().About("data");
  }
  int64_t answer = 0;
  Fnv1a fingerprint;
  for (const LongBenchSample& sample : *samples) {
    answer = std::max(answer, LongBenchAnswerTokens(sample.task));
    fingerprint.Add(sample.prompt.data(), sample.prompt.size());
    for (const std::string& text : sample.answers) fingerprint.Add(text.data(), text.size());
  }
  const Json recipe = {{"data", command.data},       {"tasks", command.tasks},
                       {"limit", command.limit},     {"max_length", command.max_length},
                       {"no_chat", command.no_chat}, {"data_fingerprint", fingerprint.Text()}};
  DUO_ASSIGN_OR_RETURN(EvalRun run, BeginEval(command.eval, "longbench", recipe,
                                              command.max_length > 0 ? command.max_length + answer : 0));
  const ModelConfig& c = run.loaded.model.config();
  const int64_t context = c.ContextFor(command.eval.common.max_context);
  const int64_t max_tokens = command.max_length > 0 ? command.max_length : context - answer;
  if (max_tokens < 256) {
    return InvalidArgument("--max-length: {} tokens for a prompt are too few; at least 256 are needed", max_tokens);
  }
  run.loaded.session.max_context = max_tokens + answer;
  std::optional<ChatTemplate> chat;
  if (!command.no_chat && !run.tokenizer.chat_template().empty()) {
    Result<ChatTemplate> recognised = ChatTemplate::Recognise(run.tokenizer);
    if (!recognised.ok()) return recognised.status().Annotate("--no-chat runs the tasks without it");
    chat = *recognised;
  }
  DUO_ASSIGN_OR_RETURN(const std::vector<TaskPrompt> prompts, MakePrompts(run.tokenizer, chat, *samples, max_tokens));
  const auto is_chinese = [](const LongBenchSample& sample) { return IsChineseTask(sample.task); };
  const std::string note = std::any_of(samples->begin(), samples->end(), is_chinese)
                               ? "Chinese tasks are scored by character; the original scores them by word.\n"
                               : "";
  Json extra = {{"chat", chat.has_value()}, {"max_length", max_tokens}};
  if (!note.empty()) extra["note"] = note;
  return RunTasks(command.eval, run, prompts, std::move(extra), note);
}

}  // namespace

void AddEvalLongBench(CLI::App* verb, VerbFunction* run) {
  auto command = std::make_shared<LongBenchCommand>();
  CLI::App* longbench =
      verb->add_subcommand("longbench", "Run LongBench: questions, summaries, few-shot tasks and code on real texts.");
  AddText(longbench, "--data", &command->data, "a folder",
          "Folder of <task>.jsonl files as downloaded, one such file, or version 2's data.json.")
      ->type_name("PATH")
      ->required();
  AddText(longbench, "--tasks", &command->tasks, "names",
          "Tasks to run, named as the files and separated by commas (default: all).")
      ->type_name("A,B,..");
  AddInt(longbench, "--limit", {0, int64_t{1} << 30}, &command->limit, "Max samples of each task; 0 takes all.")
      ->default_str(std::to_string(command->limit));
  AddInt(longbench, "--max-length", {0, int64_t{1} << 30}, &command->max_length,
         "Max tokens of a prompt; longer ones lose their middle (default: the context minus the answer).");
  longbench->add_flag("--no-chat", command->no_chat, "Never use the model's chat template.");
  AddEvalOptions(longbench, &command->eval);
  longbench->footer(
      "Example:\n"
      "  duo eval longbench --data LongBench/data --tasks qasper,hotpotqa --model ~/models/Llama-3.1-8B-Instruct \\\n"
      "      --pattern learned --sparsity 0.5 --out longbench");
  longbench->callback([longbench, command, run] {
    RefuseFlags(*longbench, {"--text"}, "has no meaning here; --data has the texts");
    *run = [command] { return Run(*command); };
  });
}

}  // namespace duo::cli
