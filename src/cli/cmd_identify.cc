// duo identify: finds which KV heads of a model are retrieval heads.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/directory_lock.h"
#include "base/file.h"
#include "base/fnv1a.h"
#include "base/memory_info.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/identify_options.h"
#include "cli/json_output.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "duo/tokenizer.h"
#include "duo/version.h"
#include "heads/pattern_format.h"
#include "identify/head_scores.h"
#include "identify/trainer.h"
#include "text/haystack.h"

namespace duo::cli {
namespace {

constexpr int64_t kDefaultSink = 128, kDefaultRecent = 256;  // the published training windows

struct IdentifyCommand {
  CommonOptions common;
  std::string method = "optimize";
  std::optional<int64_t> min_tokens;
  std::optional<int64_t> max_tokens;  // its default depends on the method
  int n_texts = 10;                   // texts that profile and mass read
  int64_t repeat_chunk = 2048;
  std::string text = "builtin";
  std::string out;
  PasskeyOptions data;
  TrainerOptions trainer;
  std::optional<double> reg;
  std::optional<int64_t> deploy_sink, deploy_recent;
  bool resume = false;
};

/// How many gates lie in each eighth of [0, 1], as bars.
std::string Histogram(const std::vector<double>& gates) {
  static constexpr const char* kBars[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  size_t counts[8] = {};
  for (const double gate : gates) ++counts[std::min<size_t>(7, static_cast<size_t>(gate * 8))];
  std::string text = "0";
  for (const size_t n : counts) text += kBars[n == 0 ? 0 : 1 + n * 7 / gates.size()];
  return text + "1";
}

Result<TrainingTexts> MakeTexts(const IdentifyCommand& command, const Tokenizer& tokenizer, Json* recipe) {
  const PasskeyOptions& d = command.data;
  *recipe = {{"dataset", command.text},
             {"num_passkeys", d.n_passkeys},
             {"context_length_min", d.min_tokens},
             {"context_length_max", d.max_tokens},
             {"context_lengths_num_intervals", d.n_lengths},
             {"depth_ratio_num_intervals", d.n_depths},
             {"min_needle_depth_ratio", d.depth_begin},
             {"max_needle_depth_ratio", d.depth_end},
             {"seed", d.seed}};
  if (command.text == "builtin") return TrainingTexts::Builtin(tokenizer, d);
  Result<Haystack> haystack = LoadHaystack(command.text);
  if (!haystack.ok()) return haystack.status().Annotate("--text");
  if (haystack->truncated)
    Note(fmt::format("{}: only the first {} are used", command.text, FormatBytes(kMaxHaystackBytes)));
  (*recipe)["passkey_length"] = d.n_words;
  (*recipe)["dataset_bytes"] = haystack->text.size();
  Fnv1a fingerprint;  // tells whether a resumed run reads the text it began with
  fingerprint.Add(haystack->text.data(), haystack->text.size());
  (*recipe)["dataset_fingerprint"] = fingerprint.Text();
  return TrainingTexts::InHaystack(tokenizer, d, std::move(haystack)->text);
}

/// Writes the scores of forward passes as the gates of a pattern, with the facts of how they were made.
Status WriteScores(const IdentifyCommand& command, const Model& model, const std::vector<double>& scores, Json facts) {
  const ModelConfig& c = model.config();
  HeadPattern pattern;
  pattern.n_layers = c.n_layers;
  pattern.n_kv_heads = c.n_kv_heads;
  pattern.gates = scores;
  pattern.sink = command.deploy_sink.value_or(command.common.sink.value_or(pattern.sink));
  pattern.recent = command.deploy_recent.value_or(command.common.recent.value_or(pattern.recent));
  facts["method"] = command.method;
  facts["model"] = c.name;
  facts["n_layers"] = c.n_layers;
  facts["n_kv_heads"] = c.n_kv_heads;
  facts["sink_size"] = command.common.sink.value_or(HeadPattern().sink);
  facts["recent_size"] = command.common.recent.value_or(HeadPattern().recent);
  facts["deploy_sink_size"] = pattern.sink;
  facts["deploy_recent_size"] = pattern.recent;
  facts["chunk"] = command.common.chunk;
  facts["compute"] = ComputeTypeName(command.common.compute);
  facts["duo_version"] = Version();
  facts["backend"] = DescribeBackend(*model.backend());
  pattern.config_json = JsonText(facts, 1);
  return SaveHeadPattern(pattern, command.out).Annotate("--out");
}

Result<std::vector<double>> Score(const IdentifyCommand& command, const Model& model, const Tokenizer& tokenizer,
                                  const TrainingTexts& texts, const ProgressCallback& progress) {
  DUO_ASSIGN_OR_RETURN(const uint64_t memory_limit, MemoryLimit(command.common, model.weights_bytes()));
  const WalkOptions options{
      .compute = command.common.compute, .chunk = command.common.chunk, .memory_limit = memory_limit};
  if (command.method == "repeat") {
    DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> context, texts.Plain(0, command.data.max_tokens));
    const std::vector<int32_t> prompt = tokenizer.Encode("\n\nRepeat the previous context: ", SpecialTokens::kNone);
    return RepeatScores(model,
                        {.context = context,
                         .prompt = prompt,
                         .sink = command.common.sink.value_or(RepeatInput().sink),
                         .repeat_chunk = command.repeat_chunk},
                        options, progress);
  }
  std::vector<std::vector<int32_t>> plain;
  for (int i = 0; i < command.n_texts; ++i) {
    DUO_ASSIGN_OR_RETURN(std::vector<int32_t> ids, texts.Plain(static_cast<uint64_t>(i), command.data.max_tokens));
    plain.push_back(std::move(ids));
  }
  if (command.method == "profile") return ProfileScores(model, plain, options, progress);
  const HeadPattern defaults;
  return OutsideMassScores(model, plain, command.common.sink.value_or(defaults.sink),
                           command.common.recent.value_or(defaults.recent), options, progress);
}

Status RunScores(const IdentifyCommand& command, const Model& model, const Tokenizer& tokenizer,
                 const TrainingTexts& texts, Json recipe) {
  if (HasUnfinishedRun(command.out)) {
    return Status(
        StatusCode::kInvalidArgument,
        "--out: " + command.out + " holds an unfinished run of --method optimize; resume it, or choose another folder");
  }
  DUO_RETURN_IF_ERROR(MakeDirectories(command.out).Annotate("--out"));  // fails before the work, not after it
  DUO_ASSIGN_OR_RETURN(const DirectoryLock lock, DirectoryLock::Take(command.out));
  ProgressBar bar(ShowProgress(command.common.progress));
  const auto begin = Clock::now();
  DUO_ASSIGN_OR_RETURN(const std::vector<double> scores, Score(command, model, tokenizer, texts, bar.Callback()));
  bar.Finish();
  const double seconds = SecondsSince(begin);
  if (command.method != "repeat") recipe["num_texts"] = command.n_texts;
  if (command.method == "repeat") recipe["repeat_chunk"] = command.repeat_chunk;
  DUO_RETURN_IF_ERROR(WriteScores(command, model, scores, std::move(recipe)));
  std::remove((command.out + "/log.jsonl").c_str());  // the log of an older pattern, which this one replaces
  if (!command.common.json) {
    Note(fmt::format("scores of {} heads in {}; written to {}", scores.size(), FormatDuration(seconds), command.out));
    return OkStatus();
  }
  return PrintJson({{"method", command.method},
                    {"out", command.out},
                    {"gates", Rows(scores, model.config().n_kv_heads)},
                    {"seconds", seconds},
                    {"memory", {{"peak_rss_bytes", PeakRssBytes()}}}});
}

Status Train(const IdentifyCommand& command, const Model& model, const TrainingTexts& texts,
             const TrainerOptions& options) {
  const TwoStreamOptions two_stream{options.sink, options.recent, texts.max_text_tokens(), options.compute};
  const uint64_t bytes = TeacherStudent::Bytes(model, two_stream);
  DUO_ASSIGN_OR_RETURN(
      Trainer trainer,
      Trainer::Create(model, texts, options, command.resume ? Trainer::Start::kResume : Trainer::Start::kFresh));
  const int64_t n_steps = options.schedule.n_steps, first = trainer.step();
  Note(fmt::format("{}{} steps on texts of up to {} tokens: {} beside the weights' {}",
                   first == 0 ? "" : fmt::format("continues at step {} of ", FormatCount(first)), FormatCount(n_steps),
                   FormatCount(texts.max_text_tokens()), FormatBytes(bytes), FormatBytes(model.weights_bytes())));
  ProgressBar bar(ShowProgress(command.common.progress));
  const ProgressCallback draw = bar.Callback();
  const auto begin = Clock::now();
  TrainerStep last;
  double flop = 0, seconds = 0;
  const Status status = trainer.Run(
      [&](const TrainerStep& step) {
        last = step;
        flop += step.gflop_s * step.seconds;
        seconds += step.seconds;
        bar.SetLabel(fmt::format("distill {:.4f} mean gate {:.3f} {}", step.distill, step.reg, Histogram(*step.gates)));
        return draw({.stage = "step",
                     .done = step.step - first,
                     .total = n_steps - first,
                     .unit = "steps",
                     .seconds = SecondsSince(begin)});
      },
      [] { return !Interrupted(); });
  bar.Finish();
  if (status.code() == StatusCode::kCancelled) {
    return Status(
        StatusCode::kCancelled,
        fmt::format("stopped after step {} of {}; the same command with --resume continues", trainer.step(), n_steps));
  }
  DUO_RETURN_IF_ERROR(status);
  const std::vector<double>& gates = trainer.optimizer().state().gates;
  if (!command.common.json) {
    const std::string loss = last.step > 0 ? fmt::format("distillation loss {:.5f}, ", last.distill) : "";
    Note(fmt::format("{} steps in {} ({:.0f} GFLOP/s); {}mean gate {:.3f} {}; written to {}",
                     FormatCount(n_steps - first), FormatDuration(seconds), seconds > 0 ? flop / seconds : 0.0, loss,
                     trainer.optimizer().mean_gate(), Histogram(gates), command.out));
    return OkStatus();
  }
  return PrintJson(
      {{"method", "optimize"},
       {"out", command.out},
       {"steps", n_steps},
       {"distill_loss", last.step > 0 ? Json(last.distill) : Json()},  // null when all steps were done before
       {"reg_loss", trainer.optimizer().mean_gate()},
       {"reg_weight", trainer.optimizer().penalty()},
       {"gates", Rows(gates, model.config().n_kv_heads)},
       {"seconds", seconds},
       {"gflop_s", seconds > 0 ? flop / seconds : 0.0},
       {"memory", {{"planned_bytes", bytes + model.weights_bytes()}, {"peak_rss_bytes", PeakRssBytes()}}}});
}

/// Default length of texts: long enough for the method, short enough for seconds to minutes. `repeat` needs one long
/// text, the means of `profile` settle early, and `optimize` uses the published lengths.
int64_t DefaultMaxTokens(const std::string& method) {
  if (method == "optimize") return PasskeyOptions().max_tokens;
  return method == "repeat" ? 8192 : 2048;
}

/// Checks the window that the pattern will be served with: fails before the work, not when the pattern is written.
Status CheckDeployWindow(const IdentifyCommand& command, const TrainerOptions& options) {
  const auto bad = [](const char* flag, int64_t n) {
    return Status(
        StatusCode::kInvalidArgument,
        fmt::format("{}: a pattern cannot have {} tokens; at most {} are allowed", flag, n, limits::kMaxWindowTokens));
  };
  if (options.deploy_sink > limits::kMaxWindowTokens)
    return bad(command.deploy_sink ? "--deploy-sink" : "--sink", options.deploy_sink);
  if (options.deploy_recent <= limits::kMaxWindowTokens) return OkStatus();
  return bad(command.deploy_recent ? "--deploy-recent" : "--recent", options.deploy_recent);
}

Status Run(const IdentifyCommand& command) {
  DUO_RETURN_IF_ERROR(CheckIdentifyCompute(command.common));
  DUO_ASSIGN_OR_RETURN(const std::string dir, ResolveModelDir(command.common.model));
  DUO_ASSIGN_OR_RETURN(const BackendPtr backend, MakeBackend(command.common));
  DUO_ASSIGN_OR_RETURN(const Model model, Model::Open(dir, backend.get()));
  NoteModel(model.config());
  DUO_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Open(dir));
  TrainerOptions options = command.trainer;
  IdentifyCommand seeded = command;
  seeded.data.seed = command.common.seed;
  const bool optimize = command.method == "optimize";
  seeded.data.max_tokens = command.max_tokens.value_or(DefaultMaxTokens(command.method));
  if (command.min_tokens && *command.min_tokens > seeded.data.max_tokens) {
    return Status(StatusCode::kInvalidArgument, fmt::format("--min-tokens: {} is more than --max-tokens {}",
                                                            *command.min_tokens, seeded.data.max_tokens));
  }
  seeded.data.min_tokens = command.min_tokens.value_or(std::min(seeded.data.min_tokens, seeded.data.max_tokens));
  options.sink = command.common.sink.value_or(kDefaultSink);
  options.recent = command.common.recent.value_or(kDefaultRecent);
  options.deploy_sink = command.deploy_sink.value_or(command.common.sink.value_or(options.deploy_sink));
  options.deploy_recent = command.deploy_recent.value_or(command.common.recent.value_or(options.deploy_recent));
  options.compute = command.common.compute;
  options.dir = command.out;
  DUO_ASSIGN_OR_RETURN(options.memory_limit, MemoryLimit(command.common, model.weights_bytes()));
  if (options.schedule.target_sparsity) options.schedule.reg_weight = kAdaptedPenaltyBegin;
  if (command.reg) options.schedule.reg_weight = *command.reg;
  Json recipe;
  DUO_ASSIGN_OR_RETURN(const TrainingTexts texts, MakeTexts(seeded, tokenizer, &recipe));
  if (optimize) DUO_RETURN_IF_ERROR(texts.CheckPasskeysFit());
  options.recipe = JsonText(recipe);
  const int64_t repeated = command.method == "repeat" ? std::min(command.repeat_chunk, seeded.data.max_tokens) + 64 : 0;
  const int64_t longest = optimize ? texts.max_text_tokens() : seeded.data.max_tokens + repeated;
  DUO_RETURN_IF_ERROR(CheckContext(command.common, model.config(), longest,
                                   optimize                     ? " with their passkeys and questions"
                                   : command.method == "repeat" ? " with the repeated tokens"
                                                                : ""));
  DUO_RETURN_IF_ERROR(CheckDeployWindow(seeded, options));
  if (!optimize) return RunScores(seeded, model, tokenizer, texts, recipe);
  return Train(seeded, model, texts, options);
}

/// Refuses flags that have no meaning with this method, so that nobody believes they had an effect.
void CheckFlags(const CLI::App& verb, const IdentifyCommand& command) {
  RefuseFlags(verb, kServingFlags, "has no meaning here: every head is run both ways while heads are being found");
  RefuseFlags(verb, {"--pattern"}, "has no meaning here: a new pattern is made, and --out names it");
  const std::string reason = "has no meaning with --method " + command.method;
  if (command.method == "optimize") {
    RefuseFlags(verb, {"--chunk", "--texts", "--repeat-chunk"}, reason);
  } else {
    RefuseFlags(verb,
                {"--steps", "--lr", "--reg", "--target-sparsity", "--accumulate", "--save-every", "--resume",
                 "--min-tokens", "--lengths"},
                reason);
  }
  if (command.method == "repeat") RefuseFlags(verb, {"--texts", "--recent"}, reason);
  if (command.method == "profile") RefuseFlags(verb, {"--repeat-chunk", "--sink", "--recent"}, reason);
  if (command.method == "mass") RefuseFlags(verb, {"--repeat-chunk"}, reason);
  if (command.text == "builtin") {
    RefuseFlags(verb, {"--words", "--depths"},
                "has no meaning with --text builtin, whose facts have words and depths of their own");
  } else if (command.method != "optimize") {
    RefuseFlags(verb, {"--passkeys", "--words", "--depths", "--depth-begin", "--depth-end"},
                reason + ": nothing is hidden in the text");
  }
}

void AddDataFlags(CLI::App* verb, IdentifyCommand* command) {
  PasskeyOptions* data = &command->data;
  verb->option_defaults()->group("Training texts");
  AddText(verb, "--text", &command->text, "a file, a folder or builtin",
          "Long plain text to hide passkeys in: FILE, FILE.jsonl, FILE.jsonl.zst (key \"text\"), or a folder of these. "
          "builtin is made-up stories with the facts of the embedded model.")
      ->type_name("PATH|builtin")
      ->default_str(command->text);
  AddInt(verb, "--passkeys", {1, kMaxPasskeys}, &data->n_passkeys, "Passkeys hidden in each text.")
      ->default_str(std::to_string(data->n_passkeys));
  AddInt(verb, "--words", {1, 4096}, &data->n_words, "Words per passkey (with --text builtin: 4 to 8).")
      ->default_str(std::to_string(data->n_words));
  AddInt(verb, "--min-tokens", {16, int64_t{1} << 20}, &command->min_tokens,
         "Tokens of the shortest text, without passkeys and questions (default: 1000, or --max-tokens when that is "
         "less).");
  AddInt(verb, "--max-tokens", {16, int64_t{1} << 20}, &command->max_tokens,
         "Tokens of the longest text, without passkeys and questions (default: optimize 32000, repeat 8192, profile "
         "and mass 2048).");
  AddInt(verb, "--texts", {1, 100000}, &command->n_texts, "Texts of --max-tokens that --method profile and mass read.")
      ->default_str(std::to_string(command->n_texts));
  AddInt(verb, "--repeat-chunk", {1, int64_t{1} << 20}, &command->repeat_chunk,
         "Tokens that --method repeat lets the model repeat at a time.")
      ->default_str(std::to_string(command->repeat_chunk));
  AddInt(verb, "--lengths", {1, int64_t{1} << 20}, &data->n_lengths,
         "Number of different lengths from --min-tokens to --max-tokens.")
      ->default_str(std::to_string(data->n_lengths));
  AddInt(verb, "--depths", {1, int64_t{1} << 20}, &data->n_depths, "Number of different depths of passkeys.")
      ->default_str(std::to_string(data->n_depths));
  AddReal(verb, "--depth-begin", {0, 1}, &data->depth_begin, "Smallest depth of a passkey, as a share of the text.")
      ->default_str(fmt::format("{:g}", data->depth_begin));
  AddReal(verb, "--depth-end", {0, 1}, &data->depth_end, "Largest depth of a passkey, as a share of the text.")
      ->default_str(fmt::format("{:g}", data->depth_end));
}

void AddTrainingFlags(CLI::App* verb, IdentifyCommand* command) {
  TrainerOptions* trainer = &command->trainer;
  verb->option_defaults()->group("Optimisation");
  AddInt(verb, "--steps", {1, int64_t{1} << 30}, &trainer->schedule.n_steps, "Number of AdamW steps.")
      ->default_str(std::to_string(trainer->schedule.n_steps));
  AddReal(verb, "--lr", {1e-9, 1}, &trainer->schedule.lr,
          "Highest learning rate; over the run the rate is a trapezoid.")
      ->default_str(fmt::format("{:g}", trainer->schedule.lr));
  AddReal(verb, "--reg", {0, 1e6}, &command->reg, "Weight of the mean gate in the loss.")
      ->default_str(fmt::format("{:g}", trainer->schedule.reg_weight));
  AddReal(verb, "--target-sparsity", {0.001, 0.999}, &trainer->schedule.target_sparsity,
          "Adapt the weight of the mean gate, so that this share of the heads becomes streaming.");
  AddInt(verb, "--accumulate", {1, 4096}, &trainer->accumulate, "Texts per step.")
      ->default_str(std::to_string(trainer->accumulate));
  AddInt(verb, "--save-every", {1, int64_t{1} << 30}, &trainer->save_every, "Steps between saved states.")
      ->default_str(std::to_string(trainer->save_every));
  AddInt(verb, "--deploy-sink", {0, int64_t{1} << 20}, &command->deploy_sink,
         "Sink that the pattern is served with (default: --sink when that is given, else 64).");
  AddInt(verb, "--deploy-recent", {1, int64_t{1} << 20}, &command->deploy_recent,
         "Recent window that the pattern is served with (default: --recent when that is given, else 256).");
  verb->add_flag("--resume", command->resume, "Continue the unfinished run in --out.");
}

}  // namespace

Status CheckIdentifyCompute(const CommonOptions& options) {
  if (options.compute != ComputeType::kInt8) return OkStatus();
  return Status(StatusCode::kInvalidArgument, "--compute: heads are found with f32 or bf16 products, not int8");
}

void RefuseFlags(const CLI::App& verb, const std::vector<std::string>& flags, const std::string& reason) {
  for (const std::string& flag : flags) {
    if (verb.count(flag) > 0) throw CLI::ValidationError(flag, reason);
  }
}

Status CheckContext(const CommonOptions& options, const ModelConfig& config, int64_t n_tokens,
                    const std::string& with_what) {
  const int64_t context = config.ContextFor(options.max_context);
  if (config.max_context > 0 && std::max(n_tokens, context) > config.max_context) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("--max-context: {} tokens, at most {} for this model, whose config.json has {}",
                              std::max(n_tokens, context), config.max_context, config.max_context_reason));
  }
  if (context == 0 || n_tokens <= context) return OkStatus();
  return Status(
      StatusCode::kInvalidArgument,
      fmt::format("--max-tokens: texts of up to {} tokens{}, but the context is {}; --max-context sets another "
                  "limit",
                  n_tokens, with_what, context));
}

Json Rows(const std::vector<double>& values, int n_kv_heads) {
  Json rows = Json::array();
  for (size_t i = 0; i < values.size(); i += static_cast<size_t>(n_kv_heads)) {
    rows.push_back(std::vector<double>(values.begin() + i, values.begin() + i + n_kv_heads));
  }
  return rows;
}

void AddIdentify(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<IdentifyCommand>();
  CLI::App* verb = app->add_subcommand("identify", "Find the retrieval heads of a model and write them as a pattern.");
  CLI::Option* out = AddText(verb, "--out", &command->out, "a directory",
                             "Directory of the pattern to write, with log.jsonl; it is made when it is missing.")
                         ->type_name("DIR");
  const auto same = [](const char* name) { return std::pair<std::string, std::string>(name, name); };
  AddChoice(
      verb, "--method",
      std::vector<std::pair<std::string, std::string>>{same("optimize"), same("repeat"), same("profile"), same("mass")},
      {}, &command->method,
      "How heads are found. optimize: learn gates (DuoAttention). repeat: attention that a text receives while the "
      "model "
      "repeats it (KVzip). profile: from mean queries and keys, in seconds. mass: attention outside sink and recent "
      "window, a baseline.")
      ->default_str(command->method);
  const std::string own_group = verb->option_defaults()->get_group();
  AddDataFlags(verb, command.get());
  AddTrainingFlags(verb, command.get());
  verb->option_defaults()->group(own_group);
  AddCommonOptions(verb, &command->common);
  verb->footer(
      "Example:\n"
      "  duo identify --model ~/models/Llama-3.2-1B --text books.txt --max-tokens 8000 --out learned\n"
      "  duo identify --model demo --min-tokens 256 --max-tokens 1024 --steps 250 --sink 16 --recent 64 --reg 0.5 \\\n"
      "      --out learned\n"
      "`duo identify probe --help` lists the flags of probe.");
  AddIdentifyProbe(verb, run);
  verb->require_subcommand(0, 1);
  verb->callback([verb, out, command, run] {
    if (!verb->get_subcommands().empty()) {  // probe has set `run`; flags before its name would be lost
      for (const CLI::Option* option : verb->get_options()) {
        if (option->count() > 0) throw CLI::ValidationError(option->get_name(), "goes after probe");
      }
      return;
    }
    if (out->count() == 0) throw CLI::RequiredError("--out");
    CheckFlags(*verb, *command);
    *run = [command] { return Run(*command); };
  });
}

}  // namespace duo::cli
