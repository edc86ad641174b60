// duo: parses the command line, runs one verb and turns its Status into an exit code.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/flag_names.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "duo/version.h"

namespace duo::cli {
namespace {

constexpr const char* kDescription =
    "duo runs language models over long contexts. Retrieval heads keep the whole KV cache;\n"
    "streaming heads keep only the first and the last tokens (DuoAttention, arXiv 2410.10819).";

constexpr const char* kFooter =
    "`duo help <verb>` lists a verb's flags with an example. Exit codes: 0 ok, 1 failed, 2 usage.\n"
    "Examples:\n"
    "  duo demo\n"
    "  duo generate --model ~/models/Llama-3.2-1B --prompt \"Once upon a time\"";

void AddVerbs(CLI::App* app, VerbFunction* run) {
  AddDemo(app, run);
  AddGenerate(app, run);
  AddChat(app, run);
  AddServe(app, run);
  AddLogits(app, run);
  AddPattern(app, run);
  AddIdentify(app, run);
  AddEval(app, run);
  AddQuantize(app, run);
  AddReport(app, run);
  AddPlan(app, run);
  AddBench(app, run);
  for (CLI::App* verb : app->get_subcommands([](const CLI::App*) { return true; })) verb->group("Verbs");
}

bool IsVerb(const CLI::App& app, const std::string& name) {
  const auto verbs = app.get_subcommands([](const CLI::App*) { return true; });
  return std::any_of(verbs.begin(), verbs.end(), [&](const CLI::App* verb) { return verb->get_name() == name; });
}

int Usage(const std::string& sentence) {
  PrintError(sentence);
  return kExitUsage;
}

/// Turns "duo help" into "duo --help", and "duo help generate" into "duo generate --help".
std::vector<std::string> ExpandHelp(std::vector<std::string> args) {
  if (args.empty() || args[0] != "help") return args;
  args.erase(args.begin());
  args.push_back("--help");
  return args;
}

int RunVerb(const VerbFunction& run, const CLI::App& app) {
  CatchInterrupts();
  CatchBusErrors();
  const Status status = run();
  if (status.ok()) return kExitOk;
  PrintError(SentenceWithFlags(status, app));
  return status.code() == StatusCode::kInvalidArgument ? kExitUsage : kExitFailed;
}

int ExitOfPrint(const Status& printed) {
  if (!printed.ok()) PrintError(printed.message());
  return printed.ok() ? kExitOk : kExitFailed;
}

int Main(int argc, char** argv) {
  CLI::App app(kDescription, "duo");
  app.footer(kFooter);
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("duo ") + Version(), "Print the version.");
  app.set_help_flag("-h,--help", "Print this text.");
  app.get_formatter()->column_width(30);
  app.get_formatter()->label("OPTIONS", "FLAGS");
  app.get_formatter()->label("SUBCOMMAND", "VERB");
  VerbFunction run;
  AddVerbs(&app, &run);

  std::vector<std::string> args = ExpandHelp(std::vector<std::string>(argv + 1, argv + argc));
  if (args.empty()) {
    WriteErr(app.help());
    return Usage("a verb is missing");
  }
  if (args[0].empty() || (args[0][0] != '-' && !IsVerb(app, args[0]))) {
    return Usage(fmt::format("\"{}\" is not a verb of duo; `duo help` lists the verbs", args[0]));
  }
  std::reverse(args.begin(), args.end());  // CLI11 reads a vector from its end
  try {
    app.parse(args);
  } catch (const CLI::CallForHelp&) {
    return ExitOfPrint(WriteOut(app.help()));
  } catch (const CLI::CallForVersion& version) {
    return ExitOfPrint(WriteOut(std::string(version.what()) + "\n"));
  } catch (const CLI::ParseError& error) {
    return Usage(error.what());
  }
  return RunVerb(run, app);
}

}  // namespace
}  // namespace duo::cli

int main(int argc, char** argv) {
  try {
    return duo::cli::Main(argc, argv);
  } catch (const std::bad_alloc&) {
    duo::cli::PrintError("out of memory: the system refused an allocation");
  } catch (const std::exception& error) {
    duo::cli::PrintError(std::string("unexpected exception: ") + error.what());
  }
  return duo::cli::kExitFailed;
}
