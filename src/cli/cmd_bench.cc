// duo bench: measures speed and memory at given depths, full attention and the split cache side by side. The same run
// measures the machine's ceilings.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/memory_info.h"
#include "cli/bench_table.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/shape_options.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "eval/bench.h"

namespace duo::cli {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 30;
constexpr double kDefaultSparsity = 0.5;

enum class Format : uint8_t { kMarkdown, kCsv, kJson };

struct BenchOptions {
  CommonOptions common;
  std::string config;  // a config.json instead of a model, with random weights
  bool random_weights = false;
  int layers = 0;  // 0 = all
  NumberList<int64_t> depths{"0,4096", {}};
  std::string modes = "full,duo";
  BenchTests tests;
  Format format = Format::kMarkdown;
};

Status CheckFlags(const BenchOptions& o) {
  if (o.config.empty() && o.common.model.empty())
    return InvalidArgument("--model: is missing; bench takes a model, or --config FILE");
  if (!o.config.empty() && !o.random_weights)
    return InvalidArgument("--config: has no weights; --random-weights makes some");
  if (o.tests.decode == 0 && o.tests.prefill == 0)
    return InvalidArgument("--decode 0 and --prefill 0 leave nothing to measure");
  return OkStatus();
}

/// The shape that will run, known before the weights are opened.
struct BenchShape {
  ModelConfig config;  // of the whole model
  int n_layers = 0;    // layers that run
  std::string dir;     // of the checkpoint; empty for random weights
  uint64_t weights_bytes = 0;
};

Result<BenchShape> LoadShape(const BenchOptions& options) {
  BenchShape shape;
  std::string path = options.config;
  if (path.empty()) {
    DUO_ASSIGN_OR_RETURN(path, ResolveModelDir(options.common.model));
    if (!options.random_weights) shape.dir = path;
  }
  DUO_ASSIGN_OR_RETURN(shape.config, LoadModelConfig(path));
  if (options.layers > shape.config.n_layers) {
    return InvalidArgument("--layers: {} is more than the {} that the model has", options.layers,
                           shape.config.n_layers);
  }
  shape.n_layers = options.layers > 0 ? options.layers : shape.config.n_layers;
  ModelConfig runs = shape.config;
  runs.n_layers = shape.n_layers;
  if (options.common.weights != WeightType::kNative) runs.weights = shape.config.weights = options.common.weights;
  shape.weights_bytes = runs.WeightsBytes();
  if (!shape.dir.empty()) {
    DUO_ASSIGN_OR_RETURN(const BackendPtr host, CreateBackend({}));
    DUO_ASSIGN_OR_RETURN(const Model mapped, Model::Open(shape.dir, host.get()));  // reads only the headers
    if (options.common.weights == WeightType::kNative) shape.weights_bytes = mapped.weights_bytes();
  }
  return shape;
}

/// Whether all modes fit at once. kResourceExhausted, with the numbers, when one of them does not fit alone.
Result<bool> CheckMemory(const BenchOptions& options, const ModelConfig& runs, uint64_t weights_bytes,
                         const std::vector<BenchMode>& modes, const Backend& backend) {
  const uint64_t available =
      options.common.memory_bytes != 0 ? options.common.memory_bytes : BackendAvailableBytes(backend);
  bool together = true;
  for (const int64_t depth : options.tests.depths) {
    uint64_t all = weights_bytes;
    for (const BenchMode& mode : modes) {
      DUO_ASSIGN_OR_RETURN(const uint64_t bytes, PlannedBytes(mode, options.tests, depth, runs, backend));
      all += bytes;
      if (weights_bytes + bytes <= available) continue;
      return ResourceExhausted(
          "--depths: {} tokens with {} need {} ({} of weights, {} of KV and activations), {} are "
          "available{}",
          depth, mode.name == "full" ? "full attention" : "duo", FormatBytes(weights_bytes + bytes),
          FormatBytes(weights_bytes), FormatBytes(bytes), FormatBytes(available),
          options.random_weights ? "; --layers N runs a part of the model" : "");
    }
    together = together && all <= available;
  }
  return together;
}

/// Parses "full" or "duo", with a type of K and V after a colon if one is given.
Result<BenchMode> ParseMode(const std::string& text, const SessionOptions& duo) {
  const size_t colon = std::min(text.find(':'), text.size());
  BenchMode mode = {text.substr(0, colon), duo};
  if (mode.name == "full") mode.session.heads = AllRetrieval(duo.heads.n_layers, duo.heads.n_kv_heads);
  const auto bad = [&] {
    return InvalidArgument("--modes: \"{}\" is not full or duo, alone or with :f32, :bf16, :int8 or :int4 after it",
                           text);
  };
  if (mode.name != "full" && mode.name != "duo") return bad();
  if (colon == text.size()) return mode;
  for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kInt8, KvType::kInt4}) {
    if (text.substr(colon + 1) != KvTypeName(type)) continue;
    mode.session.kv_type = type;
    return mode;
  }
  return bad();
}

Result<std::vector<BenchMode>> MakeModes(const BenchOptions& options, const ShapeHeads& heads) {
  CommonOptions common = options.common;
  common.memory_bytes = 0;  // CheckMemory checks all modes together
  DUO_ASSIGN_OR_RETURN(SessionOptions duo, ResolveSession(common, heads.pattern, 0));
  duo.heads = heads.heads;
  std::vector<BenchMode> modes;
  for (const std::string& text : SplitAtCommas(options.modes)) {
    DUO_ASSIGN_OR_RETURN(BenchMode mode, ParseMode(text, duo));
    modes.push_back(std::move(mode));
  }
  return modes;
}

Status PrintReport(const BenchOptions& options, const BenchReport& report) {
  if (options.common.json || options.format == Format::kJson) return PrintJson(BenchJson(report));
  return WriteOut(options.format == Format::kCsv ? BenchCsv(report) : BenchMarkdown(report));
}

Status RunBench(const BenchOptions& options) {
  DUO_RETURN_IF_ERROR(CheckFlags(options));
  DUO_ASSIGN_OR_RETURN(const BackendPtr backend, MakeBackend(options.common));
  DUO_ASSIGN_OR_RETURN(const BenchShape shape, LoadShape(options));
  DUO_ASSIGN_OR_RETURN(const ShapeHeads heads,
                       ChooseShapeHeads(options.common, shape.config, shape.n_layers, kDefaultSparsity));
  DUO_ASSIGN_OR_RETURN(const std::vector<BenchMode> modes, MakeModes(options, heads));
  ModelConfig runs = shape.config;
  runs.n_layers = shape.n_layers;
  // The ceilings come first: the block that bandwidth is measured on stays allocated, and the model cannot have it.
  BenchReport report;
  DUO_RETURN_IF_ERROR(MeasureCeilings(options.common.compute, backend.get(), &report));
  report.available_bytes = BackendAvailableBytes(*backend);
  report.on_device = options.common.device == Device::kCuda;
  DUO_ASSIGN_OR_RETURN(const bool together, CheckMemory(options, runs, shape.weights_bytes, modes, *backend));
  report.base_rss_bytes = CurrentRssBytes();
  ResetPeakRss();
  ProgressBar quantizing(options.common.progress);
  const ModelOptions how = {.weights = options.common.weights, .progress = quantizing.Callback()};
  DUO_ASSIGN_OR_RETURN(const Model model, shape.dir.empty() ? Model::Random(shape.config, shape.n_layers,
                                                                            options.common.seed, backend.get(), how)
                                                            : Model::Open(shape.dir, backend.get(), how));
  quantizing.Finish();
  NoteModel(model.config());
  report.model = model.config();
  report.n_layers_of_model = shape.config.n_layers;
  report.random_weights = shape.dir.empty();
  report.weights_bytes = model.weights_bytes();
  report.backend = DescribeBackend(*backend);
  report.threads = BackendThreads(*backend);
  report.heads = heads.description;
  report.sink = modes[0].session.sink;
  report.recent = modes[0].session.recent;
  report.chunk = options.common.chunk;
  report.interleaved = together;
  ProgressBar bar(options.common.progress, "bench");
  DUO_RETURN_IF_ERROR(RunBenchTests(
      model, modes, options.tests, together, bar.Callback(), [] { return !Interrupted(); }, &report));
  bar.Finish();
  report.peak_rss_bytes = PeakRssBytes();
  return PrintReport(options, report);
}

}  // namespace

void AddBench(CLI::App* app, VerbFunction* run) {
  CLI::App* verb =
      app->add_subcommand("bench", "Measure speed and memory at given depths, full attention and duo side by side.");
  auto options = std::make_shared<BenchOptions>();
  AddCommonOptions(verb, &options->common);
  AddConfigOption(verb, &options->config);
  verb->add_flag("--random-weights", options->random_weights, "Use random weights of the model's or --config's shape.");
  AddInt(verb, "--layers", {1, 100000}, &options->layers, "Run only the first N layers.")->needs("--random-weights");
  AddNumbers(verb, "--depths", IntRange{0, kMaxTokens}, &options->depths,
             "Tokens in the cache before a test, separated by commas.");
  AddText(verb, "--modes", &options->modes, "modes",
          "Modes to measure, separated by commas: full and duo, each with an optional type of K and V (full:bf16).")
      ->type_name("A,B,..")
      ->default_str(options->modes);
  AddInt(verb, "--decode", {0, kMaxTokens}, &options->tests.decode,
         "Tokens decoded per repetition; 0 leaves decoding out.")
      ->default_str(std::to_string(options->tests.decode));
  AddInt(verb, "--prefill", {0, kMaxTokens}, &options->tests.prefill,
         "Tokens prefilled per repetition; 0 leaves prefill out.")
      ->default_str(std::to_string(options->tests.prefill));
  AddChoice(verb, "--fill", Choices<CacheFill>{{"prefill", CacheFill::kPrefill}, {"synthetic", CacheFill::kSynthetic}},
            &options->tests.fill, "How the cache is filled: prefill runs the model, synthetic uses made-up K and V.")
      ->default_str("prefill");
  AddInt(verb, "--repeat", {1, 10000}, &options->tests.repeat,
         "Number of repetitions; results are medians over all samples.")
      ->default_str(std::to_string(options->tests.repeat));
  AddChoice(verb, "--format",
            Choices<Format>{{"md", Format::kMarkdown}, {"csv", Format::kCsv}, {"json", Format::kJson}},
            &options->format, "Format of the output; md is a Markdown table, and --json is the same as json.")
      ->default_str("md");
  verb->footer(
      "Without a pattern, a share --sparsity (default 0.5) of the heads streams, evenly spread.\n"
      "Example:\n"
      "  duo bench --config bench/configs/llama-3.2-1b.json --random-weights --depths 0,32768 --fill synthetic");
  verb->callback([options, run] {
    options->tests.depths = options->depths.numbers;
    *run = [options] { return RunBench(*options); };
  });
}

}  // namespace duo::cli
