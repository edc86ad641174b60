// duo report: makes one page from the results of duo eval and duo bench.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/terminal.h"
#include "eval/report.h"

namespace duo::cli {
namespace {

constexpr size_t kMaxFileBytes = size_t{64} << 20;

struct ReportCommand {
  std::vector<std::string> inputs;
  std::string out;
  std::string title = "duo: results";
  bool json = false;
};

Result<Json> Read(const std::string& path) {
  DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  return ParseJson(text, path);
}

/// Adds the results in a folder, sorted by name. Other JSON files (a pattern's) are skipped.
Status AddFolder(const std::string& folder, std::vector<ReportInput>* inputs) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".json") paths.push_back(entry.path().string());
  }
  if (error) return IoError("{}: {}", folder, error.message());
  std::sort(paths.begin(), paths.end());
  const size_t before = inputs->size();
  for (const std::string& path : paths) {
    DUO_ASSIGN_OR_RETURN(Json result, Read(path));
    if (IsReportable(result)) inputs->push_back({path, std::move(result)});
  }
  if (inputs->size() > before) return OkStatus();
  return NotFound("{}: has no result of duo eval or duo bench (*.json)", folder);
}

Status Run(const ReportCommand& command) {
  std::vector<ReportInput> inputs;
  for (const std::string& path : command.inputs) {
    if (IsDirectory(path)) {
      DUO_RETURN_IF_ERROR(AddFolder(path, &inputs));
      continue;
    }
    DUO_ASSIGN_OR_RETURN(Json result, Read(path));
    inputs.push_back({path, std::move(result)});
  }
  DUO_ASSIGN_OR_RETURN(const std::string page, MakeReport(inputs, command.title));
  DUO_RETURN_IF_ERROR(WriteFileAtomic(command.out, page).Annotate("--out"));
  if (command.json) return PrintJson({{"out", command.out}, {"n_results", inputs.size()}});
  return WriteOut(fmt::format("{} results are in {}\n", inputs.size(), command.out));
}

}  // namespace

void AddReport(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<ReportCommand>();
  CLI::App* verb = app->add_subcommand("report", "Make one HTML page from results of duo eval and duo bench.");
  verb->add_option("RESULT", command->inputs, "JSON files, or folders that --out of duo eval named.")->required();
  AddText(verb, "--out", &command->out, "a file", "HTML page to write.")->type_name("PATH")->required();
  AddText(verb, "--title", &command->title, "", "Heading of the page.")->type_name("TEXT")->default_str(command->title);
  AddJsonFlag(verb, &command->json);
  verb->footer("Example:\n  duo report needles certified --out report.html");
  verb->callback([command, run] { *run = [command] { return Run(*command); }; });
}

}  // namespace duo::cli
