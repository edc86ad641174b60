// duo eval niah: measures how well needles in a haystack are found, by length and depth, with full attention and with
// the split cache.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/strings.h"
#include "cli/eval_command.h"
#include "cli/flags.h"
#include "cli/needle_options.h"
#include "cli/terminal.h"
#include "eval/needle.h"

namespace duo::cli {
namespace {

struct NiahCommand {
  EvalCommand eval;
  NeedleOptions needle;
};

/// Scores of one depth in one mode's table ("  1.00   0.98 "), shaded where the terminal has colours.
std::string Row(const std::vector<double>& scores, bool colour) {
  std::string text;
  for (const double score : scores) {
    // 256-colour greys to blues as in the pictures; dark means found.
    static constexpr int kShades[] = {255, 195, 153, 111, 69, 25};
    const auto shade = static_cast<size_t>(std::clamp(score, 0.0, 1.0) * 5);
    text += colour ? fmt::format(" \x1b[48;5;{};38;5;{}m {:.2f} \x1b[0m", kShades[shade], score > 0.6 ? 255 : 16, score)
                   : fmt::format("  {:.2f} ", score);
  }
  return text;
}

std::string Table(const NeedleGrid& grid, const std::vector<EvalMode>& modes,
                  const std::vector<std::vector<std::vector<double>>>& tables, const std::vector<double>& means) {
  std::string text = "depth ";
  for (size_t m = 0; m < modes.size(); ++m) {
    const std::string title = fmt::format(" {}, mean {:.3f}", m == 0 ? "full attention" : "duo", means[m]);
    text += fmt::format("{:<{}}  ", title, std::max(title.size(), 7 * grid.lengths.size()));
  }
  text.resize(TrimEnd(text, " ").size());
  text += "\n      ";
  std::vector<size_t> pad(modes.size());
  for (size_t m = 0; m < modes.size(); ++m) {
    std::string line;
    for (const int64_t length : grid.lengths) {
      line += fmt::format("{:>6} ", length % 1024 == 0 ? fmt::format("{}k", length / 1024) : std::to_string(length));
    }
    const size_t title = fmt::format(" {}, mean {:.3f}", m == 0 ? "full attention" : "duo", means[m]).size();
    pad[m] = std::max(title, line.size()) - line.size();
    text += line + std::string(pad[m] + 2, ' ');
  }
  text.resize(TrimEnd(text, " ").size());
  text += "\n";
  for (size_t row = 0; row < grid.depths.size(); ++row) {
    text += fmt::format("{:>4.0f} %", 100 * grid.depths[row]);
    for (size_t m = 0; m < modes.size(); ++m) {
      text += Row(tables[m][row], StdoutHasColour()) + std::string(pad[m] + 2, ' ');
    }
    text.resize(TrimEnd(text, " ").size());
    text += "\n";
  }
  return text;
}

Status Run(const NiahCommand& command) {
  DUO_ASSIGN_OR_RETURN(const NeedleGrid grid, GridOf(command.needle));
  const int64_t longest = *std::max_element(grid.lengths.begin(), grid.lengths.end());
  DUO_ASSIGN_OR_RETURN(EvalRun run, BeginEval(command.eval, "niah", RecipeOf(command.needle, grid),
                                              longest + command.needle.max_answer));
  const std::vector<EvalMode> modes = run.Modes();
  Json result = {{"lengths", grid.lengths}, {"depths", grid.depths}, {"n_seeds", grid.n_seeds}};
  std::vector<std::vector<std::vector<double>>> tables;
  std::vector<double> means;
  int64_t n_prompt = 0, n_reused = 0;
  ProgressBar bar(command.eval.common.progress);
  for (const EvalMode& mode : modes) {
    bar.SetLabel(mode.name);
    DUO_ASSIGN_OR_RETURN(const NeedleOutcome outcome,
                         MeasureNeedles(run, command.needle, grid, mode.name, mode.session, bar.Callback()));
    result["modes"][mode.name] = {{"mean", outcome.mean}, {"table", outcome.table}, {"kv_bytes", outcome.kv_bytes}};
    tables.push_back(outcome.table);
    means.push_back(outcome.mean);
    n_prompt += outcome.n_prompt, n_reused += outcome.n_reused;
  }
  bar.Finish();
  std::string text = Table(grid, modes, tables, means);
  text += fmt::format("{} prompts of {} tokens, {:.0f} % of them read once for several prompts\n",
                      grid.lengths.size() * grid.depths.size() * modes.size() * grid.n_seeds * command.needle.n_needles,
                      FormatCount(n_prompt),
                      n_prompt == 0 ? 0.0 : 100.0 * static_cast<double>(n_reused) / static_cast<double>(n_prompt));
  return FinishEval(command.eval, run, std::move(result), text);
}

}  // namespace

void AddEvalNiah(CLI::App* verb, VerbFunction* run) {
  auto command = std::make_shared<NiahCommand>();
  CLI::App* niah =
      verb->add_subcommand("niah", "Find needles in a haystack, by length of the text and depth of the needle.");
  AddNeedleOptions(niah, &command->needle);
  AddEvalOptions(niah, &command->eval);
  niah->footer(
      "Example:\n"
      "  duo eval niah --model ~/models/Llama-3.1-8B --pattern learned --sparsity 0.5 --text essays/ \\\n"
      "      --lengths 4k,16k,64k --out needles");
  niah->callback([command, run] { *run = [command] { return Run(*command); }; });
}

}  // namespace duo::cli
