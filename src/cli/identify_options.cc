#include "cli/identify_options.h"

#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>

#include "base/error.h"
#include "cli/flags.h"

namespace duo::cli {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 20;
constexpr int64_t kDefaultSink = 128, kDefaultRecent = 256;  // the published training windows

const Choices<IdentifyMethod>& Methods() {
  static const Choices<IdentifyMethod> methods = {{"optimize", IdentifyMethod::kOptimize},
                                                  {"repeat", IdentifyMethod::kRepeat},
                                                  {"profile", IdentifyMethod::kProfile},
                                                  {"mass", IdentifyMethod::kMass}};
  return methods;
}

/// Default length of texts: long enough for the method, short enough for seconds to minutes. `repeat` needs one long
/// text, the means of `profile` settle early, and `optimize` uses the published lengths.
int64_t DefaultMaxLength(IdentifyMethod method) {
  if (method == IdentifyMethod::kOptimize) return PasskeyOptions().max_length;
  return method == IdentifyMethod::kRepeat ? 8192 : 2048;
}

void AddDataFlags(CLI::App* verb, IdentifyOptions* options) {
  PasskeyOptions* data = &options->data;
  verb->option_defaults()->group("Training texts");
  AddText(verb, "--text", &options->text, "a file, a folder or builtin",
          "Long plain text to hide passkeys in: FILE, FILE.jsonl, FILE.jsonl.zst (key \"text\"), or a folder of these. "
          "builtin is made-up stories with the facts of the embedded model.")
      ->type_name("PATH|builtin")
      ->default_str(options->text);
  AddInt(verb, "--passkeys", {1, kMaxPasskeys}, &data->n_passkeys, "Passkeys hidden in each text.")
      ->default_str(std::to_string(data->n_passkeys));
  AddInt(verb, "--words", {1, 4096}, &data->n_words, "Words per passkey (with --text builtin: 4 to 8).")
      ->default_str(std::to_string(data->n_words));
  CLI::Option* min_length =
      AddInt(verb, "--min-length", {16, kMaxTokens}, &options->min_length,
             "Tokens of the shortest text, without passkeys and questions (default: 1000, or --max-length when that is "
             "less).");
  CLI::Option* max_length =
      AddInt(verb, "--max-length", {16, kMaxTokens}, &options->max_length,
             "Tokens of the longest text, without passkeys and questions (default: optimize 32000, repeat 8192, "
             "profile and mass 2048).");
  CLI::Option* n_texts = AddInt(verb, "--n-texts", {1, 100000}, &options->n_texts,
                                "Texts of --max-length tokens that --method profile and mass read.")
                             ->default_str(std::to_string(options->n_texts));
  AddInt(verb, "--repeat-chunk", {1, kMaxTokens}, &options->repeat_chunk,
         "Tokens that --method repeat lets the model repeat at a time.")
      ->default_str(std::to_string(options->repeat_chunk));
  CLI::Option* n_lengths = AddInt(verb, "--n-lengths", {1, kMaxTokens}, &data->n_lengths,
                                  "Number of different lengths from --min-length to --max-length.")
                               ->default_str(std::to_string(data->n_lengths));
  CLI::Option* n_depths =
      AddInt(verb, "--n-depths", {1, kMaxTokens}, &data->n_depths, "Number of different depths of passkeys.")
          ->default_str(std::to_string(data->n_depths));
  AddReal(verb, "--depth-begin", {0, 1}, &data->depth_begin, "Smallest depth of a passkey, as a share of the text.")
      ->default_str(fmt::format("{:g}", data->depth_begin));
  AddReal(verb, "--depth-end", {0, 1}, &data->depth_end, "Largest depth of a passkey, as a share of the text.")
      ->default_str(fmt::format("{:g}", data->depth_end));
  AcceptOldName(verb, "--min-tokens", min_length);
  AcceptOldName(verb, "--max-tokens", max_length);
  AcceptOldName(verb, "--texts", n_texts);
  AcceptOldName(verb, "--lengths", n_lengths);
  AcceptOldName(verb, "--depths", n_depths);
}

void AddTrainingFlags(CLI::App* verb, IdentifyOptions* options) {
  TrainerOptions* trainer = &options->trainer;
  verb->option_defaults()->group("Optimisation");
  AddInt(verb, "--steps", {1, int64_t{1} << 30}, &trainer->schedule.n_steps, "Number of AdamW steps.")
      ->default_str(std::to_string(trainer->schedule.n_steps));
  AddReal(verb, "--lr", {1e-9, 1}, &trainer->schedule.lr,
          "Highest learning rate; over the run the rate is a trapezoid.")
      ->default_str(fmt::format("{:g}", trainer->schedule.lr));
  AddReal(verb, "--reg", {0, 1e6}, &options->reg, "Weight of the mean gate in the loss.")
      ->default_str(fmt::format("{:g}", trainer->schedule.reg_weight));
  AddReal(verb, "--target-sparsity", {0.001, 0.999}, &trainer->schedule.target_sparsity,
          "Adapt the weight of the mean gate, so that this share of the heads becomes streaming.");
  AddInt(verb, "--accumulate", {1, 4096}, &trainer->accumulate, "Texts per step.")
      ->default_str(std::to_string(trainer->accumulate));
  AddInt(verb, "--save-every", {1, int64_t{1} << 30}, &trainer->save_every, "Steps between saved states.")
      ->default_str(std::to_string(trainer->save_every));
  AddInt(verb, "--deploy-sink", {0, kMaxTokens}, &options->deploy_sink,
         "Sink that the pattern is served with (default: --sink when that is given, else 64).");
  AddInt(verb, "--deploy-recent", {1, kMaxTokens}, &options->deploy_recent,
         "Recent window that the pattern is served with (default: --recent when that is given, else 256).");
  verb->add_flag("--resume", options->resume, "Continue the unfinished run in --out.");
}

}  // namespace

const char* MethodName(IdentifyMethod method) {
  for (const auto& [name, value] : Methods()) {
    if (value == method) return name.c_str();
  }
  return "";
}

void AddIdentifyOptions(CLI::App* verb, IdentifyOptions* options) {
  AddChoice(verb, "--method", Methods(), &options->method,
            "How heads are found. optimize: learn gates (DuoAttention). repeat: attention that a text receives while "
            "the model repeats it (KVzip). profile: from mean queries and keys, in seconds. mass: attention outside "
            "sink and recent window, a baseline.")
      ->default_str(MethodName(options->method));
  const std::string own_group = verb->option_defaults()->get_group();
  AddDataFlags(verb, options);
  AddTrainingFlags(verb, options);
  verb->option_defaults()->group(own_group);
  AddCommonOptions(verb, &options->common);
}

void RefuseMeaninglessFlags(const CLI::App& verb, const IdentifyOptions& options) {
  RefuseFlags(verb, kServingFlags, "has no meaning here: every head is run both ways while heads are being found");
  RefuseFlags(verb, {"--pattern"}, "has no meaning here: a new pattern is made, and --out names it");
  const std::string reason = fmt::format("has no meaning with --method {}", MethodName(options.method));
  if (options.method == IdentifyMethod::kOptimize) {
    RefuseFlags(verb, {"--chunk", "--n-texts", "--repeat-chunk"}, reason);
  } else {
    RefuseFlags(verb,
                {"--steps", "--lr", "--reg", "--target-sparsity", "--accumulate", "--save-every", "--resume",
                 "--min-length", "--n-lengths"},
                reason);
  }
  if (options.method == IdentifyMethod::kRepeat) RefuseFlags(verb, {"--n-texts", "--recent"}, reason);
  if (options.method == IdentifyMethod::kProfile) RefuseFlags(verb, {"--repeat-chunk", "--sink", "--recent"}, reason);
  if (options.method == IdentifyMethod::kMass) RefuseFlags(verb, {"--repeat-chunk"}, reason);
  if (options.text == "builtin") {
    RefuseFlags(verb, {"--words", "--n-depths"},
                "has no meaning with --text builtin, whose facts have words and depths of their own");
  } else if (options.method != IdentifyMethod::kOptimize) {
    RefuseFlags(verb, {"--passkeys", "--words", "--n-depths", "--depth-begin", "--depth-end"},
                reason + ": nothing is hidden in the text");
  }
}

Result<PasskeyOptions> DataOptions(const IdentifyOptions& options) {
  PasskeyOptions data = options.data;
  data.seed = options.common.seed;
  data.max_length = options.max_length.value_or(DefaultMaxLength(options.method));
  if (options.min_length && *options.min_length > data.max_length) {
    return InvalidArgument("--min-length: {} is more than --max-length {}", *options.min_length, data.max_length);
  }
  data.min_length = options.min_length.value_or(std::min(data.min_length, data.max_length));
  return data;
}

TrainerOptions TrainingOptions(const IdentifyOptions& options) {
  TrainerOptions trainer = options.trainer;
  const CommonOptions& common = options.common;
  trainer.sink = common.sink.value_or(kDefaultSink);
  trainer.recent = common.recent.value_or(kDefaultRecent);
  trainer.deploy_sink = options.deploy_sink.value_or(common.sink.value_or(trainer.deploy_sink));
  trainer.deploy_recent = options.deploy_recent.value_or(common.recent.value_or(trainer.deploy_recent));
  trainer.compute = common.compute;
  trainer.dir = options.out;
  if (trainer.schedule.target_sparsity) trainer.schedule.reg_weight = kAdaptedPenaltyBegin;
  if (options.reg) trainer.schedule.reg_weight = *options.reg;
  return trainer;
}

Status CheckDeployWindow(const IdentifyOptions& options, const TrainerOptions& trainer) {
  const auto bad = [](const char* flag, int64_t n) {
    return InvalidArgument("{}: a pattern cannot have {} tokens; at most {} are allowed", flag, n,
                           HeadPattern::kMaxWindow);
  };
  if (trainer.deploy_sink > HeadPattern::kMaxWindow)
    return bad(options.deploy_sink ? "--deploy-sink" : "--sink", trainer.deploy_sink);
  if (trainer.deploy_recent <= HeadPattern::kMaxWindow) return OkStatus();
  return bad(options.deploy_recent ? "--deploy-recent" : "--recent", trainer.deploy_recent);
}

Status CheckIdentifyCompute(const CommonOptions& options) {
  if (options.compute != ComputeType::kInt8) return OkStatus();
  return InvalidArgument("--compute: heads are found with f32 or bf16 products, not int8");
}

Status CheckContext(const CommonOptions& options, const ModelConfig& config, int64_t n_tokens,
                    const std::string& with_what) {
  const int64_t context = config.ContextFor(options.max_context);
  if (config.max_context > 0 && std::max(n_tokens, context) > config.max_context) {
    return InvalidArgument("--max-context: {} tokens, at most {} for this model, whose config.json has {}",
                           std::max(n_tokens, context), config.max_context, config.max_context_reason);
  }
  if (context == 0 || n_tokens <= context) return OkStatus();
  return InvalidArgument(
      "--max-length: texts of up to {} tokens{}, but the context is {}; --max-context sets another "
      "limit",
      n_tokens, with_what, context);
}

Json Rows(const std::vector<double>& values, int n_kv_heads) {
  Json rows = Json::array();
  for (size_t i = 0; i < values.size(); i += n_kv_heads) {
    rows.push_back(std::vector<double>(values.begin() + i, values.begin() + i + n_kv_heads));
  }
  return rows;
}

}  // namespace duo::cli
