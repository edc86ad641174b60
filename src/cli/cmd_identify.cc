// duo identify: finds which KV heads of a model are retrieval heads.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/directory_lock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/fnv1a.h"
#include "base/memory_info.h"
#include "base/progress_counter.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/identify_options.h"
#include "cli/json_output.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "duo/tokenizer.h"
#include "duo/version.h"
#include "identify/head_scores.h"
#include "identify/trainer.h"

namespace duo::cli {
namespace {

/// How many gates lie in each eighth of [0, 1], as bars.
std::string Histogram(const std::vector<double>& gates) {
  static constexpr const char* kBars[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  size_t counts[8] = {};
  for (const double gate : gates) ++counts[std::min<size_t>(7, static_cast<size_t>(gate * 8))];
  std::string text = "0";
  for (const size_t n : counts) text += kBars[n == 0 ? 0 : 1 + n * 7 / gates.size()];
  return text + "1";
}

/// Sets *recipe to the facts that decide the texts.
Result<TrainingTexts> MakeTexts(const std::string& text, const PasskeyOptions& d, const Tokenizer& tokenizer,
                                Json* recipe) {
  *recipe = {{"dataset", text},
             {"num_passkeys", d.n_passkeys},
             {"context_length_min", d.min_length},
             {"context_length_max", d.max_length},
             {"context_lengths_num_intervals", d.n_lengths},
             {"depth_ratio_num_intervals", d.n_depths},
             {"min_needle_depth_ratio", d.depth_begin},
             {"max_needle_depth_ratio", d.depth_end},
             {"seed", d.seed}};
  if (text == "builtin") return TrainingTexts::Builtin(tokenizer, d);
  DUO_ASSIGN_OR_RETURN(TrainingTexts texts, TrainingTexts::InFiles(tokenizer, d, text));
  if (texts.truncated()) Note(fmt::format("{}: only the first {} are used", text, FormatBytes(kMaxHaystackBytes)));
  (*recipe)["passkey_length"] = d.n_words;
  (*recipe)["dataset_bytes"] = texts.haystack().size();
  Fnv1a fingerprint;  // tells whether a resumed run reads the text it began with
  fingerprint.Add(texts.haystack().data(), texts.haystack().size());
  (*recipe)["dataset_fingerprint"] = fingerprint.Text();
  return texts;
}

/// Writes the scores of forward passes as the gates of a pattern, with the facts of how they were made.
Status WriteScores(const IdentifyOptions& options, const Model& model, const std::vector<double>& scores, Json facts) {
  const ModelConfig& c = model.config();
  HeadPattern pattern;
  pattern.n_layers = c.n_layers;
  pattern.n_kv_heads = c.n_kv_heads;
  pattern.gates = scores;
  pattern.sink = options.deploy_sink.value_or(options.common.sink.value_or(pattern.sink));
  pattern.recent = options.deploy_recent.value_or(options.common.recent.value_or(pattern.recent));
  facts["method"] = MethodName(options.method);
  facts["model"] = c.name;
  facts["n_layers"] = c.n_layers;
  facts["n_kv_heads"] = c.n_kv_heads;
  facts["sink_size"] = options.common.sink.value_or(HeadPattern().sink);
  facts["recent_size"] = options.common.recent.value_or(HeadPattern().recent);
  facts["deploy_sink_size"] = pattern.sink;
  facts["deploy_recent_size"] = pattern.recent;
  facts["chunk"] = options.common.chunk;
  facts["compute"] = ComputeTypeName(options.common.compute);
  facts["duo_version"] = Version();
  facts["backend"] = DescribeBackend(*model.backend());
  pattern.config_json = JsonText(facts, 1);
  return SaveHeadPattern(pattern, options.out).Annotate("--out");
}

/// `length` is the number of tokens of each text.
Result<std::vector<double>> Score(const IdentifyOptions& options, const Model& model, const Tokenizer& tokenizer,
                                  const TrainingTexts& texts, int64_t length, const ProgressCallback& progress) {
  DUO_ASSIGN_OR_RETURN(const uint64_t memory_limit, MemoryLimit(options.common, model.weights_bytes()));
  const WalkOptions walk{
      .compute = options.common.compute, .chunk = options.common.chunk, .memory_limit = memory_limit};
  if (options.method == IdentifyMethod::kRepeat) {
    DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> context, texts.Plain(0, length));
    const std::vector<int32_t> prompt = tokenizer.Encode("\n\nRepeat the previous context: ", SpecialTokens::kNone);
    return RepeatScores(model,
                        {.context = context,
                         .prompt = prompt,
                         .sink = options.common.sink.value_or(RepeatInput().sink),
                         .repeat_chunk = options.repeat_chunk},
                        walk, progress);
  }
  std::vector<std::vector<int32_t>> plain;
  for (int i = 0; i < options.n_texts; ++i) {
    DUO_ASSIGN_OR_RETURN(std::vector<int32_t> ids, texts.Plain(i, length));
    plain.push_back(std::move(ids));
  }
  if (options.method == IdentifyMethod::kProfile) return ProfileScores(model, plain, walk, progress);
  const HeadPattern defaults;
  return OutsideMassScores(model, plain, options.common.sink.value_or(defaults.sink),
                           options.common.recent.value_or(defaults.recent), walk, progress);
}

Status RunScores(const IdentifyOptions& options, const Model& model, const Tokenizer& tokenizer,
                 const TrainingTexts& texts, int64_t length, Json recipe) {
  if (HasUnfinishedRun(options.out)) {
    return InvalidArgument(
        "--out: {} holds an unfinished run of --method optimize; resume it, or choose another folder", options.out);
  }
  DUO_RETURN_IF_ERROR(MakeDirectories(options.out).Annotate("--out"));  // fails before the work, not after it
  DUO_ASSIGN_OR_RETURN(const DirectoryLock lock, DirectoryLock::Take(options.out));
  ProgressBar bar(options.common.progress);
  const auto begin = Clock::now();
  DUO_ASSIGN_OR_RETURN(const std::vector<double> scores,
                       Score(options, model, tokenizer, texts, length, bar.Callback()));
  bar.Finish();
  const double seconds = SecondsSince(begin);
  if (options.method != IdentifyMethod::kRepeat) recipe["num_texts"] = options.n_texts;
  if (options.method == IdentifyMethod::kRepeat) recipe["repeat_chunk"] = options.repeat_chunk;
  DUO_RETURN_IF_ERROR(WriteScores(options, model, scores, std::move(recipe)));
  std::remove((options.out + "/log.jsonl").c_str());  // the log of an older pattern, which this one replaces
  if (!options.common.json) {
    Note(fmt::format("scores of {} heads in {}; written to {}", scores.size(), FormatDuration(seconds), options.out));
    return OkStatus();
  }
  return PrintJson({{"method", MethodName(options.method)},
                    {"out", options.out},
                    {"gates", Rows(scores, model.config().n_kv_heads)},
                    {"seconds", seconds},
                    {"memory", {{"peak_rss_bytes", PeakRssBytes()}}}});
}

/// Sums over the steps of a training run.
struct TrainingTotals {
  TrainerStep last;
  double flop = 0;  // in units of 10^9
  double seconds = 0;

  void Add(const TrainerStep& step) {
    last = step;
    flop += step.gflop_s * step.seconds;
    seconds += step.seconds;
  }
  double gflop_s() const { return seconds > 0 ? flop / seconds : 0.0; }
};

/// Runs all steps that are left, with their losses and gates beside the progress.
Status RunSteps(Trainer* trainer, int64_t n_steps, ProgressBar::Show show, TrainingTotals* totals) {
  ProgressBar bar(show);
  const ProgressCallback draw = bar.Callback();
  ProgressCounter counter(draw, "step", "steps", n_steps - trainer->step());
  Status status = trainer->Run(
      [&](const TrainerStep& step) {
        totals->Add(step);
        bar.SetLabel(fmt::format("distill {:.4f} mean gate {:.3f} {}", step.distill, step.reg, Histogram(*step.gates)));
        return counter.Add(1).ok();
      },
      [] { return !Interrupted(); });
  if (status.code() != StatusCode::kCancelled) return status;
  return Stopped("stopped after step {} of {}; the same command with --resume continues", trainer->step(), n_steps);
}

Json TrainingJson(const IdentifyOptions& options, const Model& model, const Trainer& trainer,
                  const TrainingTotals& totals, uint64_t planned_bytes) {
  const GateOptimizer& optimizer = trainer.optimizer();
  return {{"method", MethodName(options.method)},
          {"out", options.out},
          {"steps", trainer.step()},
          // Null when all steps were done before.
          {"distill_loss", totals.last.step > 0 ? Json(totals.last.distill) : Json()},
          {"reg_loss", optimizer.mean_gate()},
          {"reg_weight", optimizer.penalty()},
          {"gates", Rows(optimizer.state().gates, model.config().n_kv_heads)},
          {"seconds", totals.seconds},
          {"gflop_s", totals.gflop_s()},
          {"memory", {{"planned_bytes", planned_bytes}, {"peak_rss_bytes", PeakRssBytes()}}}};
}

Status Train(const IdentifyOptions& options, const Model& model, const TrainingTexts& texts,
             const TrainerOptions& training) {
  const TwoStreamOptions two_stream{training.sink, training.recent, texts.max_text_tokens(), training.compute};
  const uint64_t bytes = TeacherStudent::Bytes(model, two_stream);
  DUO_ASSIGN_OR_RETURN(
      Trainer trainer,
      Trainer::Create(model, texts, training, options.resume ? Trainer::Start::kResume : Trainer::Start::kFresh));
  const int64_t n_steps = training.schedule.n_steps, first = trainer.step();
  Note(fmt::format("{}{} steps on texts of up to {} tokens: {} beside the weights' {}",
                   first == 0 ? "" : fmt::format("continues at step {} of ", FormatCount(first)), FormatCount(n_steps),
                   FormatCount(texts.max_text_tokens()), FormatBytes(bytes), FormatBytes(model.weights_bytes())));
  TrainingTotals totals;
  DUO_RETURN_IF_ERROR(RunSteps(&trainer, n_steps, options.common.progress, &totals));
  if (options.common.json) {
    return PrintJson(TrainingJson(options, model, trainer, totals, bytes + model.weights_bytes()));
  }
  const GateOptimizer& optimizer = trainer.optimizer();
  Note(fmt::format("{} steps in {} ({:.0f} GFLOP/s); {}mean gate {:.3f} {}; written to {}",
                   FormatCount(n_steps - first), FormatDuration(totals.seconds), totals.gflop_s(),
                   totals.last.step > 0 ? fmt::format("distillation loss {:.5f}, ", totals.last.distill) : "",
                   optimizer.mean_gate(), Histogram(optimizer.state().gates), options.out));
  return OkStatus();
}

Status Run(const IdentifyOptions& options) {
  DUO_RETURN_IF_ERROR(CheckIdentifyCompute(options.common));
  DUO_ASSIGN_OR_RETURN(const std::string dir, ResolveModelDir(options.common.model));
  DUO_ASSIGN_OR_RETURN(const BackendPtr backend, MakeBackend(options.common));
  DUO_ASSIGN_OR_RETURN(const Model model, Model::Open(dir, backend.get()));
  NoteModel(model.config());
  DUO_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Open(dir));
  DUO_ASSIGN_OR_RETURN(const PasskeyOptions data, DataOptions(options));
  TrainerOptions training = TrainingOptions(options);
  DUO_ASSIGN_OR_RETURN(training.memory_limit, MemoryLimit(options.common, model.weights_bytes()));
  Json recipe;
  DUO_ASSIGN_OR_RETURN(const TrainingTexts texts, MakeTexts(options.text, data, tokenizer, &recipe));
  const bool optimize = options.method == IdentifyMethod::kOptimize;
  const bool repeat = options.method == IdentifyMethod::kRepeat;
  if (optimize) DUO_RETURN_IF_ERROR(texts.CheckPasskeysFit());
  training.recipe = JsonText(recipe);
  const int64_t repeated = repeat ? std::min(options.repeat_chunk, data.max_length) + 64 : 0;
  const int64_t longest = optimize ? texts.max_text_tokens() : data.max_length + repeated;
  DUO_RETURN_IF_ERROR(CheckContext(options.common, model.config(), longest,
                                   optimize ? " with their passkeys and questions"
                                   : repeat ? " with the repeated tokens"
                                            : ""));
  DUO_RETURN_IF_ERROR(CheckDeployWindow(options, training));
  if (optimize) return Train(options, model, texts, training);
  return RunScores(options, model, tokenizer, texts, data.max_length, std::move(recipe));
}

}  // namespace

void AddIdentify(CLI::App* app, VerbFunction* run) {
  auto options = std::make_shared<IdentifyOptions>();
  CLI::App* verb = app->add_subcommand("identify", "Find the retrieval heads of a model and write them as a pattern.");
  CLI::Option* out = AddText(verb, "--out", &options->out, "a directory",
                             "Directory of the pattern to write, with log.jsonl; it is made when it is missing.")
                         ->type_name("PATH");
  AddIdentifyOptions(verb, options.get());
  verb->footer(
      "Example:\n"
      "  duo identify --model ~/models/Llama-3.2-1B --text books.txt --max-length 8000 --out learned\n"
      "  duo identify --model demo --min-length 256 --max-length 1024 --steps 250 --sink 16 --recent 64 --reg 0.5 \\\n"
      "      --out learned\n"
      "`duo identify probe --help` lists the flags of probe.");
  AddIdentifyProbe(verb, run);
  verb->require_subcommand(0, 1);
  verb->callback([verb, out, options, run] {
    if (!verb->get_subcommands().empty()) {  // probe has set `run`; flags before its name would be lost
      for (const CLI::Option* option : verb->get_options()) {
        if (option->count() > 0) throw CLI::ValidationError(option->get_name(), "goes after probe");
      }
      return;
    }
    if (out->count() == 0) throw CLI::RequiredError("--out");
    RefuseMeaninglessFlags(*verb, *options);
    *run = [options] { return Run(*options); };
  });
}

}  // namespace duo::cli
