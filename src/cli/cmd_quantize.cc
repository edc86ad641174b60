// duo quantize: a checkpoint with int8 or int4 weights.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/memory_info.h"
#include "base/parallel.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/terminal.h"
#include "model/quantize_checkpoint.h"

namespace duo::cli {
namespace {

constexpr size_t kShownMatrices = 8;

struct QuantizeCommand {
  std::string model;
  std::string out;
  WeightType weights = WeightType::kInt8;
  int threads = 0;
  bool json = false;
  bool progress = false;
};

Json ToJson(const QuantizeCommand& command, const QuantizeReport& report, double seconds) {
  Json matrices = Json::array();
  for (const MatrixReport& m : report.matrices) {
    matrices.push_back(
        {{"name", m.name}, {"weights", WeightTypeName(m.type)}, {"error", m.error}, {"outlier", m.outlier}});
  }
  return {{"out", command.out},
          {"weights", WeightTypeName(command.weights)},
          {"bytes_before", report.bytes_before},
          {"bytes_after", report.bytes_after},
          {"seconds", seconds},
          {"matrices", std::move(matrices)}};
}

std::string ToText(const QuantizeCommand& command, const QuantizeReport& report, double seconds) {
  std::vector<MatrixReport> worst = report.matrices;
  std::stable_sort(worst.begin(), worst.end(),
                   [](const MatrixReport& a, const MatrixReport& b) { return a.error > b.error; });
  std::string text =
      fmt::format("{} matrices: {} -> {} in {}, in {}\n\n", report.matrices.size(), FormatBytes(report.bytes_before),
                  FormatBytes(report.bytes_after), command.out, FormatDuration(seconds));
  text +=
      "changed most (error: root mean square of the change over that of the weights;\n"
      "outlier: largest weight over that):\n";
  for (size_t i = 0; i < std::min(kShownMatrices, worst.size()); ++i) {
    text += fmt::format("  {:<44} {:<4}  error {:5.2f} %  outlier {:6.1f}\n", worst[i].name,
                        WeightTypeName(worst[i].type), 100 * worst[i].error, worst[i].outlier);
  }
  return text;
}

Status Run(const QuantizeCommand& command) {
  DUO_ASSIGN_OR_RETURN(const std::string dir, ResolveModelDir(command.model));
  const int threads = command.threads > 0 ? command.threads : AvailableThreads();
  const auto begin = Clock::now();
  ProgressBar bar(ShowProgress(command.progress));
  Result<QuantizeReport> report = QuantizeCheckpoint(dir, command.weights, command.out, threads, bar.Callback());
  bar.Finish();
  if (!report.ok()) return report.status();
  const double seconds = SecondsSince(begin);
  if (command.json) return PrintJson(ToJson(command, *report, seconds));
  return WriteOut(ToText(command, *report, seconds));
}

}  // namespace

void AddQuantize(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<QuantizeCommand>();
  CLI::App* verb = app->add_subcommand("quantize", "write a checkpoint with int8 or int4 weights");
  AddText(verb, "--model", &command->model, "a directory",
          "Hugging Face directory with BF16, F16 or F32 weights; demo = the embedded model")
      ->type_name("DIR")
      ->required();
  AddChoice(verb, "--weights",
            std::vector<std::pair<std::string, WeightType>>{{"int8", WeightType::kInt8}, {"int4", WeightType::kInt4}},
            {}, &command->weights,
            "int8: a scale per output; int4: a scale per 32 inputs, embedding and output matrix int8")
      ->required();
  AddText(verb, "--out", &command->out, "a directory", "where the new checkpoint goes")->type_name("DIR")->required();
  AddInt(verb, "--threads", {1, 1024}, &command->threads, "CPU threads (default: all cores of this process)");
  verb->add_flag("--json", command->json, "print one JSON value on stdout and nothing else there");
  verb->add_flag("--progress", command->progress, "show progress on stderr even when it is no terminal");
  verb->footer(
      "Example:\n"
      "  duo quantize --model ~/models/Llama-3.1-8B --weights int4 --out ~/models/Llama-3.1-8B-int4\n"
      "  duo generate --model ~/models/Llama-3.1-8B-int4 --kv-type int4 --prompt-file book.txt");
  verb->callback([command, run] { *run = [command] { return Run(*command); }; });
}

}  // namespace duo::cli
