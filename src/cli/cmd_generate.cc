// duo generate: continues a prompt.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/memory_info.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/sampling_options.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "duo/generate.h"
#include "duo/tokenizer.h"

namespace duo::cli {
namespace {

struct GenerateCommand {
  CommonOptions common;
  GenerateOptions generate;
  std::optional<std::string> prompt;  // exactly one of these three
  std::string prompt_file;
  std::string ids_file;
  bool no_special = false;
  bool statistics = false;
};

/// Opens the model's tokenizer. It may be missing when the prompt is token ids and no stop text has to be found.
Result<std::optional<Tokenizer>> OpenTokenizer(const GenerateCommand& command, const LoadedModel& loaded) {
  Result<Tokenizer> tokenizer = Tokenizer::Open(loaded.dir);
  if (tokenizer.ok()) return std::optional<Tokenizer>(*std::move(tokenizer));
  const bool tokens_suffice = !command.ids_file.empty() && command.generate.stop.empty();
  if (tokens_suffice && tokenizer.status().code() == StatusCode::kNotFound) return std::optional<Tokenizer>();
  return tokenizer.status();
}

Result<std::vector<int32_t>> PromptIds(const GenerateCommand& command, const LoadedModel& loaded,
                                       const std::optional<Tokenizer>& tokenizer) {
  if (!command.ids_file.empty()) {
    Result<std::vector<int32_t>> ids = ReadIdsFile(command.ids_file, loaded.model.config().vocab_size);
    return ids.ok() ? ids : ids.status().Annotate("--ids");
  }
  std::string text = command.prompt.value_or("");
  if (!command.prompt) {
    Result<std::string> file = ReadTextFile(command.prompt_file);
    if (!file.ok()) return file.status().Annotate("--prompt-file");
    text = *std::move(file);
  }
  std::vector<int32_t> ids = tokenizer->Encode(text, command.no_special ? SpecialTokens::kNone : SpecialTokens::kAdd);
  if (!ids.empty()) return ids;
  return InvalidArgument("{}: the text has no tokens", command.prompt ? "--prompt" : "--prompt-file");
}

/// Writes text to stdout as it is generated, and keeps the error of a write that failed.
class TextOutput {
 public:
  explicit TextOutput(bool shown, ProgressBar* bar) : shown_(shown), bar_(bar) {}
  TextCallback Callback() {
    return [this](const std::string& text) {
      if (!shown_) return !Interrupted();
      bar_->Finish();
      status_ = WriteOut(text);
      ends_line_ = text.empty() ? ends_line_ : text.back() == '\n';
      return status_.ok() && !Interrupted();
    };
  }
  /// Ends the line on a terminal, so that the shell prompt gets a line of its own. Files and pipes get the text alone.
  Status EndLine() {
    if (shown_ && status_.ok() && StdoutIsTerminal() && !ends_line_) return WriteOut("\n");
    return status_;
  }

 private:
  bool shown_;
  ProgressBar* bar_;
  bool ends_line_ = false;
  Status status_;
};

Json ToJson(const GenerateResult& result, const Session& session, int64_t n_prompt) {
  return {{"tokens", result.tokens},
          {"text", result.text},
          {"finish", FinishReasonName(result.finish)},
          {"timings", TimingsJson(result, n_prompt)},
          {"memory", MemoryJson(session)},
          {"heads", HeadsJson(session.options())}};
}

void PrintStatistics(const GenerateResult& result, const Session& session, int64_t n_prompt) {
  const Json timings = TimingsJson(result, n_prompt);
  Note(fmt::format("prompt {} tokens in {} ({:.0f} tokens/s); {} tokens in {} ({:.1f} tokens/s); KV {}; ended by {}",
                   FormatCount(n_prompt), FormatDuration(result.prefill_seconds),
                   timings["prefill_tokens_per_s"].get<double>(), result.tokens.size(),
                   FormatDuration(result.decode_seconds), timings["decode_tokens_per_s"].get<double>(),
                   FormatBytes(session.kv_bytes()), FinishReasonName(result.finish)));
}

Status Run(const GenerateCommand& command) {
  DUO_ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(command.common));
  NoteCertificate(loaded);
  NoteMeasuredLoss(loaded);
  DUO_ASSIGN_OR_RETURN(const std::optional<Tokenizer> tokenizer, OpenTokenizer(command, loaded));
  DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, PromptIds(command, loaded, tokenizer));
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(loaded.model, loaded.session));
  if (Interrupted()) return Stopped("stopped before the prompt was read");

  GenerateOptions options = command.generate;
  options.sampler.seed = command.common.seed;
  ProgressBar bar(command.common.progress);
  TextOutput output(!command.common.json, &bar);
  const Result<GenerateResult> result = Generate(&session, loaded.model, tokenizer ? &*tokenizer : nullptr, prompt,
                                                 options, output.Callback(), bar.Callback());
  bar.Finish();
  if (!result.ok() && result.status().code() == StatusCode::kCancelled) {
    return Stopped("stopped after {} of {} prompt tokens", session.len(), prompt.size());
  }
  if (!result.ok()) return result.status();
  DUO_RETURN_IF_ERROR(output.EndLine());
  const auto n_prompt = std::ssize(prompt);
  if (command.common.json) DUO_RETURN_IF_ERROR(PrintJson(ToJson(*result, session, n_prompt)));
  const bool cancelled = result->finish == FinishReason::kCancelled;
  if (StderrIsTerminal() || command.common.progress == ProgressBar::Show::kAlways || cancelled)
    PrintStatistics(*result, session, n_prompt);
  return OkStatus();
}

}  // namespace

void AddGenerate(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<GenerateCommand>();
  CLI::App* verb = app->add_subcommand("generate", "Continue a prompt; print text as it is generated, or JSON.");
  verb->option_defaults()->group("Prompt (one of these)");
  CLI::Option* prompt = verb->add_option_function<std::string>(
      "--prompt", [command](const std::string& text) { command->prompt = text; }, "Text of the prompt.");
  CLI::Option* file = AddText(verb, "--prompt-file", &command->prompt_file, "a file or -",
                              "File with the prompt; - is standard input.");
  CLI::Option* ids = AddText(verb, "--ids", &command->ids_file, "a file",
                             "File with the prompt as a JSON array of token ids; no token is added to them.");
  prompt->option_text("TEXT");
  file->excludes(prompt)->option_text("FILE");
  ids->excludes(prompt)->excludes(file)->option_text("FILE");
  verb->option_defaults()->group("Text");
  AddGenerateOptions(verb, &command->generate);
  verb->add_flag("--no-special", command->no_special, "Do not put the model's begin-of-text token before the prompt.");
  verb->add_flag("--ignore-eos", command->generate.ignore_eos, "Continue after the model's end-of-text token.");
  AddCommonOptions(verb, &command->common);
  verb->footer(
      "Ctrl-C stops generating and keeps the text so far; a second one ends the program.\n"
      "Example:\n"
      "  duo generate --model demo --pattern demo --prompt-file book.txt --max-tokens 20 --json");
  verb->callback([command, run, prompt, file, ids] {
    if (prompt->count() + file->count() + ids->count() == 0)
      throw CLI::RequiredError("--prompt, --prompt-file or --ids");
    *run = [command] { return Run(*command); };
  });
}

}  // namespace duo::cli
