// duo quantize: writes a checkpoint with int8 or int4 weights.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory_info.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/terminal.h"
#include "duo/backend.h"
#include "duo/model.h"
#include "duo/quantize.h"
#include "duo/tokenizer.h"
#include "eval/text_source.h"
#include "identify/linear_inputs.h"

namespace duo::cli {
namespace {

constexpr size_t kShownMatrices = 8;
constexpr int64_t kSmoothTokens = 2048;

struct QuantizeCommand {
  std::string model;
  std::string out;
  WeightType weights = WeightType::kInt8;
  std::string smooth;  // a text to calibrate on; empty = no smoothing
  std::optional<double> alpha;
  std::optional<int64_t> n_tokens;
  int threads = 0;
  bool json = false;
  ProgressBar::Show progress = ProgressBar::Show::kAuto;
};

/// Outliers in one input of a layer's matrices.
struct InputReport {
  int layer = 0;
  const char* input = "";
  double outlier = 0;            // largest magnitude over the root mean square
  double channels = 0;           // largest channel's magnitude over the middle one's
  double smoothed_channels = 0;  // `channels` after smoothing
};

double LargestOverMiddle(std::vector<float> channels) {
  if (channels.empty()) return 0;
  const auto middle = channels.begin() + channels.size() / 2;
  std::nth_element(channels.begin(), middle, channels.end());
  return *middle > 0 ? static_cast<double>(*std::max_element(middle, channels.end()) / *middle) : 0;
}

std::vector<InputReport> ReportInputs(const std::vector<LayerInputs>& layers, const QuantizeReport& report) {
  static constexpr const char* kNames[] = {"q, k, v", "o", "gate, up", "down"};
  std::vector<InputReport> inputs;
  for (size_t l = 0; l < layers.size(); ++l) {
    for (size_t i = 0; i < kLinearInputs; ++i) {
      const InputMagnitudes& of = layers[l].of[i];
      const Smoothing::Layer& s = report.factors[l];
      const std::vector<float>* factors[] = {&s.attention, &s.output, &s.mlp, &s.down};
      std::vector<float> smoothed = of.max;
      for (size_t c = 0; c < smoothed.size(); ++c) smoothed[c] /= (*factors[i])[c];
      inputs.push_back({static_cast<int>(l), kNames[i], of.outlier(), LargestOverMiddle(of.max),
                        LargestOverMiddle(std::move(smoothed))});
    }
  }
  return inputs;
}

Json ToJson(const QuantizeCommand& command, const QuantizeReport& report, const std::vector<InputReport>& inputs,
            double seconds) {
  Json activations = Json::array();
  for (const InputReport& row : inputs) {
    activations.push_back({{"layer", row.layer},
                           {"input", row.input},
                           {"outlier", row.outlier},
                           {"channels", row.channels},
                           {"smoothed_channels", row.smoothed_channels}});
  }
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
          {"matrices", std::move(matrices)},
          {"activations", std::move(activations)}};
}

std::string InputsText(std::vector<InputReport> inputs) {
  std::stable_sort(inputs.begin(), inputs.end(),
                   [](const InputReport& a, const InputReport& b) { return a.outlier > b.outlier; });
  std::string text =
      "\nactivations with the largest outliers (outlier: largest value over the root mean square; channels:\n"
      "largest channel over the middle one, before -> after smoothing):\n";
  for (size_t i = 0; i < std::min(kShownMatrices, inputs.size()); ++i) {
    const InputReport& row = inputs[i];
    text += fmt::format("  layer {:<3} {:<9} outlier {:7.1f}  channels {:7.1f} -> {:.1f}\n", row.layer, row.input,
                        row.outlier, row.channels, row.smoothed_channels);
  }
  return text;
}

std::string ToText(const QuantizeCommand& command, const QuantizeReport& report, const std::vector<InputReport>& inputs,
                   double seconds) {
  std::vector<MatrixReport> worst = report.matrices;
  std::stable_sort(worst.begin(), worst.end(),
                   [](const MatrixReport& a, const MatrixReport& b) { return a.error > b.error; });
  std::string text =
      fmt::format("{} matrices: {} -> {} in {}, in {}\n\n", report.matrices.size(), FormatBytes(report.bytes_before),
                  FormatBytes(report.bytes_after), command.out, FormatDuration(seconds));
  text +=
      "changed most (error: root mean square of the change over that of the weights;\n"
      "outlier: largest weight over the root mean square of the weights):\n";
  for (size_t i = 0; i < std::min(kShownMatrices, worst.size()); ++i) {
    text += fmt::format("  {:<44} {:<4}  error {:5.2f} %  outlier {:6.1f}\n", worst[i].name,
                        WeightTypeName(worst[i].type), 100 * worst[i].error, worst[i].outlier);
  }
  if (!inputs.empty()) text += InputsText(inputs);
  return text;
}

/// Measures the inputs of the plain model's matrices on the text.
Result<std::vector<LayerInputs>> Calibrate(const QuantizeCommand& command, const std::string& dir, Backend* backend,
                                           const ProgressCallback& progress) {
  Result<TextSource> text = TextSource::Open(command.smooth);
  if (!text.ok()) return text.status().Annotate("--smooth");
  DUO_ASSIGN_OR_RETURN(const Model model, Model::Open(dir, backend));
  DUO_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Open(dir));
  if (model.config().weights != WeightType::kNative)
    return std::vector<LayerInputs>{};  // QuantizeCheckpoint refuses it
  int64_t n = command.n_tokens.value_or(kSmoothTokens);
  const int64_t context = model.config().ContextFor(0);
  if (context > 0) n = std::min(n, context);
  DUO_ASSIGN_OR_RETURN(const std::string sample, text->Take(n, 0, tokenizer));
  std::vector<int32_t> ids = tokenizer.Encode(sample);
  ids.resize(std::min<int64_t>(std::ssize(ids), n));
  return MeasureLinearInputs(model, ids, {}, progress);
}

Status Run(const QuantizeCommand& command) {
  DUO_ASSIGN_OR_RETURN(const std::string dir, ResolveModelDir(command.model));
  DUO_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(dir));
  NoteModel(config);
  // The backend is created even when no model has to run, so that a wrong DUO_ISA is an error as in every verb.
  DUO_ASSIGN_OR_RETURN(const BackendPtr backend, CreateBackend({.n_threads = command.threads}));
  const auto begin = Clock::now();
  ProgressBar bar(command.progress);
  Smoothing smoothing;
  std::vector<LayerInputs> layers;
  if (!command.smooth.empty() && command.weights != WeightType::kInt8) {
    return InvalidArgument(
        "--smooth: is for int8 weights and --compute int8; it makes int4 weights worse (docs/quality.md)");
  }
  DUO_RETURN_IF_ERROR(CheckQuantizeOut(dir, command.out));
  if (!command.smooth.empty()) {
    smoothing.alpha = command.alpha.value_or(smoothing.alpha);
    DUO_ASSIGN_OR_RETURN(layers, Calibrate(command, dir, backend.get(), bar.Callback()));
    for (const LayerInputs& layer : layers) {
      const auto max = [&](LinearInput input) { return layer.of[static_cast<size_t>(input)].max; };
      smoothing.layers.push_back({.attention = max(LinearInput::kAttention),
                                  .output = max(LinearInput::kOutput),
                                  .mlp = max(LinearInput::kMlp),
                                  .down = max(LinearInput::kDown)});
    }
  }
  Result<QuantizeReport> report =
      QuantizeCheckpoint(dir, command.weights, smoothing, command.out, BackendThreads(*backend), bar.Callback());
  bar.Finish();
  if (!report.ok()) return report.status();
  const double seconds = SecondsSince(begin);
  const std::vector<InputReport> inputs = ReportInputs(layers, *report);
  if (command.json) return PrintJson(ToJson(command, *report, inputs, seconds));
  return WriteOut(ToText(command, *report, inputs, seconds));
}

}  // namespace

void AddQuantize(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<QuantizeCommand>();
  CLI::App* verb = app->add_subcommand("quantize", "Write a checkpoint with int8 or int4 weights.");
  AddModelOption(verb, &command->model)->required();
  AddChoice(verb, "--weights", Choices<WeightType>{{"int8", WeightType::kInt8}, {"int4", WeightType::kInt4}},
            &command->weights,
            "Type of the new weights. int8: a scale per output. int4: a scale per 32 inputs; embedding and output "
            "matrix are int8.")
      ->required();
  AddText(verb, "--out", &command->out, "a directory", "Directory of the new checkpoint.")
      ->type_name("PATH")
      ->required();
  AddText(verb, "--smooth", &command->smooth, "a text",
          "Scale channels that have outliers on this text down and their weights up, for --compute int8 (SmoothQuant). "
          "The text is a file, a folder of files, or builtin.")
      ->type_name("PATH|builtin");
  AddReal(verb, "--smooth-alpha", {0, 1}, &command->alpha,
          "Share of the outliers that --smooth moves into the weights.")
      ->needs("--smooth")
      ->default_str("0.5");
  AddInt(verb, "--smooth-tokens", {1, 1 << 20}, &command->n_tokens, "Tokens of the text that --smooth runs.")
      ->needs("--smooth")
      ->default_str(std::to_string(kSmoothTokens));
  AddThreadsOption(verb, &command->threads);
  AddJsonFlag(verb, &command->json);
  AddProgressFlag(verb, &command->progress);
  verb->footer(
      "Example:\n"
      "  duo quantize --model ~/models/Llama-3.1-8B --weights int4 --out ~/models/Llama-3.1-8B-int4\n"
      "  duo generate --model ~/models/Llama-3.1-8B-int4 --kv-type int4 --prompt-file book.txt\n"
      "  duo quantize --model ~/models/Llama-3.1-8B --weights int8 --smooth book.txt --out ~/models/Llama-3.1-8B-int8\n"
      "  duo generate --model ~/models/Llama-3.1-8B-int8 --compute int8 --prompt-file book.txt");
  verb->callback([command, run] { *run = [command] { return Run(*command); }; });
}

}  // namespace duo::cli
