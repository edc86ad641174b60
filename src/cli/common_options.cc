#include "cli/common_options.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory_info.h"
#include "base/parallel.h"
#include "cli/flags.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "duo/key_outliers.h"

namespace duo::cli {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 36;
constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr double kDefaultSparsity = 0.5;

void AddHeadOptions(CLI::App* verb, CommonOptions* options) {
  AddText(
      verb, "--pattern", &options->pattern, "a directory or none",
      "Head pattern: a directory with full_attention_heads.tsv and config.json. demo is the embedded model's; none is "
      "full attention (default).")
      ->type_name("DIR|none");
  CLI::Option* sparsity = AddReal(verb, "--sparsity", {0, 1}, &options->sparsity,
                                  "Share of KV heads made streaming, 0..1 (default with a pattern: 0.5).");
  sparsity->option_text("F");
  AddReal(verb, "--threshold", {0, 1}, &options->threshold,
          "Make heads with a gate >= F retrieval heads, instead of choosing by --sparsity.")
      ->excludes(sparsity)
      ->option_text("F");
  AddInt(verb, "--sink", {0, kMaxTokens}, &options->sink,
         "First tokens that streaming heads keep (default: the pattern's).");
  AddInt(verb, "--recent", {1, kMaxTokens}, &options->recent,
         "Last tokens that streaming heads see, including the current one (default: the pattern's).");
  AddInt(verb, "--prefill-recent", {1, kMaxTokens}, &options->prefill_recent,
         "Last tokens that streaming heads see while the prompt is read, at least --recent (default: --recent).");
  AddInt(verb, "--pinned-prefix", {0, kMaxTokens}, &options->pinned_prefix,
         "First tokens that no head may forget; they lengthen the sink.");
}

void AddRunOptions(CLI::App* verb, CommonOptions* options) {
  AddInt(verb, "--chunk", {1, 65536}, &options->chunk,
         "Prompt tokens that go through the model at once; the result does not depend on it.")
      ->default_str(std::to_string(options->chunk));
  AddChoice(
      verb, "--compute",
      Choices<ComputeType>{{"f32", ComputeType::kF32}, {"bf16", ComputeType::kBF16}, {"int8", ComputeType::kInt8}},
      &options->compute, "Type of the inputs of matrix products; f32 is the checking mode, int8 needs int8 weights.")
      ->default_str(ComputeTypeName(options->compute));
  AddChoice(
      verb, "--kv-type",
      Choices<KvType>{{"f32", KvType::kF32}, {"bf16", KvType::kBF16}, {"int8", KvType::kInt8}, {"int4", KvType::kInt4}},
      &options->kv_type, "Type of cached K and V (default: bf16, or f32 with --compute f32).");
  AddChoice(
      verb, "--weights",
      Choices<WeightType>{{"native", WeightType::kNative}, {"int8", WeightType::kInt8}, {"int4", WeightType::kInt4}},
      &options->weights,
      "Type of the weights: native is as in the checkpoint; int8 and int4 quantise them while the model is opened.")
      ->default_str("native");
  AddThreadsOption(verb, &options->threads);
  AddChoice(verb, "--device", Choices<Device>{{"cpu", Device::kCpu}, {"cuda", Device::kCuda}}, &options->device,
            "Device that runs the model.")
      ->default_str("cpu");
  AddInt(verb, "--snapshot-every", {0, kMaxTokens}, &options->snapshot_every,
         "Tokens between copies of the streaming windows, which make rewinding cheap; 0 makes no copies.")
      ->default_str(std::to_string(options->snapshot_every));
  AddBytes(verb, "--memory", &options->memory_bytes,
           "Limit for weights, KV cache and activations together, such as 24GiB (default: what the system has).");
  AddInt(verb, "--max-context", {1, kMaxTokens}, &options->max_context,
         "Max tokens of prompt and answer together (default: what the model was trained for).");
  AddInt(verb, "--seed", {0}, &options->seed, "Seed of all random choices.")
      ->default_str(std::to_string(options->seed));
  AddJsonFlag(verb, &options->json);
  AddProgressFlag(verb, &options->progress);
}

std::string DirectoryOfExecutable() {
  char path[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0 || n == static_cast<ssize_t>(sizeof path)) return "";
  const std::string text(path, n);
  return text.substr(0, text.rfind('/'));
}

Result<std::string> ReadStandardInput() {
  std::string text;
  char buffer[65536];
  while (text.size() <= kMaxTextBytes) {
    const ssize_t n = Interrupted() ? 0 : read(STDIN_FILENO, buffer, sizeof buffer);
    if (n == 0 && !Interrupted()) return text;
    if (n <= 0) {
      if (Interrupted()) return Stopped("stopped while reading standard input");
      return IoError("standard input cannot be read: {}", std::strerror(errno));
    }
    text.append(buffer, n);
  }
  return Corrupt("standard input has more than {}", FormatBytes(kMaxTextBytes));
}

// An error of the check is ignored: the first prompt meets the same error and reports it.
void NoteKeyOutliers(const Model& model, KvType type) {
  const double limit = KeyOutlierLimit(type);
  if (limit == 0) return;
  const Result<KeyOutlier> found = LargestKeyOutlier(model);
  if (!found.ok() || found->ratio() < limit) return;
  Note(
      fmt::format("warning: layer {}, KV head {} has keys with a channel of size {:.3g}, {:.0f} times the size of the "
                  "others: --kv-type {} rounds the others away; bf16 does not (docs/quality.md)",
                  found->layer, found->kv_head, found->largest, found->ratio(), KvTypeName(type)));
}

}  // namespace

CLI::Option* AddModelOption(CLI::App* verb, std::string* model) {
  return AddText(verb, "--model", model, "a directory",
                 "Hugging Face directory with config.json, *.safetensors and a tokenizer; demo is the embedded model.")
      ->type_name("DIR");
}

void AddThreadsOption(CLI::App* verb, int* n_threads) {
  AddInt(verb, "--threads", {1, 1024}, n_threads, "Number of CPU threads (default: all cores of this process).");
}

void AddJsonFlag(CLI::App* verb, bool* json) {
  verb->add_flag("--json", *json, "Print one JSON value on stdout and nothing else there.");
}

void AddProgressFlag(CLI::App* verb, ProgressBar::Show* progress) {
  verb->add_flag_callback(
      "--progress", [=] { *progress = ProgressBar::Show::kAlways; },
      "Show progress on stderr even when it is not a terminal.");
}

void AddCommonOptions(CLI::App* verb, CommonOptions* options) {
  const std::string own_group = verb->option_defaults()->get_group();
  verb->option_defaults()->group("Model and heads");
  AddModelOption(verb, &options->model);
  AddHeadOptions(verb, options);
  verb->option_defaults()->group("How it runs");
  AddRunOptions(verb, options);
  verb->option_defaults()->group(own_group);
}

Result<LoadedModel> LoadModel(const CommonOptions& given) {
  CommonOptions options = given;
  DUO_ASSIGN_OR_RETURN(std::string dir, ResolveModelDir(options.model));
  DUO_ASSIGN_OR_RETURN(std::optional<HeadPattern> pattern, LoadPattern(options));
  std::optional<Certificate> certificate;
  if (pattern && options.pattern != "demo") {
    Result<std::optional<Certificate>> loaded = LoadCertificate(options.pattern);
    if (!loaded.ok()) return loaded.status().Annotate("--pattern");
    certificate = std::move(loaded).value();
    // The gates of a certified pattern are zeros and ones: a threshold of 0.5 gives the choice that was certified.
    if (certificate && !options.sparsity && !options.threshold) options.threshold = 0.5;
  }
  DUO_ASSIGN_OR_RETURN(BackendPtr backend, MakeBackend(options));
  DUO_ASSIGN_OR_RETURN(Model model, OpenModel(options, dir, backend.get()));
  NoteModel(model.config());
  if (options.compute == ComputeType::kInt8 && model.config().weights != WeightType::kInt8) {
    return InvalidArgument("--compute: int8 needs int8 weights; --weights int8 makes them while the model is opened");
  }
  DUO_ASSIGN_OR_RETURN(HeadChoice heads, ChooseHeads(options, pattern, model.config()));
  DUO_ASSIGN_OR_RETURN(SessionOptions session, ResolveSession(options, pattern, model.weights_bytes()));
  session.heads = std::move(heads);
  NoteKeyOutliers(model, session.kv_type);
  return LoadedModel{std::move(backend), std::move(model),   std::move(dir),
                     std::move(pattern), std::move(session), std::move(certificate)};
}

Result<Model> OpenModel(const CommonOptions& options, const std::string& dir, Backend* backend) {
  ProgressBar bar(options.progress);
  return Model::Open(dir, backend, {.weights = options.weights, .progress = bar.Callback()});
}

void NoteModel(const ModelConfig& config) {
  for (const std::string& note : config.notes) Note(note);
}

void NoteMeasuredLoss(const LoadedModel& loaded) {
  // With every other type the most likely token was the same in 95 % of the places or more.
  if (loaded.model.config().weights != WeightType::kInt4) return;
  Note(
      "warning: with int4 weights the embedded model's most likely token changed in 9 of 100 places (int8: 3); duo "
      "eval perplexity --against measures your model");
}

void NoteCertificate(const LoadedModel& loaded) {
  if (!loaded.certificate) return;
  const Certificate& c = *loaded.certificate;
  const SessionOptions& s = loaded.session;
  const int64_t sink = std::max(s.sink, s.pinned_prefix), prefill = s.prefill_recent > 0 ? s.prefill_recent : s.recent;
  if (c.model_fingerprint != ModelFingerprint(loaded.model)) {
    Note(fmt::format(
        "warning: the pattern's certificate belongs to another model ({}): nothing is known about this one", c.model));
  } else if (HeadsFingerprint(s.heads) != c.heads_fingerprint) {
    Note(fmt::format("warning: the pattern was certified with {} retrieval heads, this run has {}",
                     c.chosen.n_retrieval, loaded.session.heads.n_retrieval()));
  } else if (sink < c.sink || s.recent != c.recent || prefill != c.prefill_recent) {
    Note(fmt::format(
        "warning: the pattern was certified with sink {}, recent {} and prefill-recent {}; this run has {}, {} and {}",
        c.sink, c.recent, c.prefill_recent, sink, s.recent, prefill));
  } else {
    Note("the pattern was " + Describe(c));
  }
}

Result<BackendPtr> MakeBackend(const CommonOptions& options) {
  Result<BackendPtr> backend = CreateBackend({.device = options.device, .n_threads = options.threads});
  if (const int wanted = options.threads > 0 ? options.threads : AvailableThreads();
      backend.ok() && BackendThreads(**backend) < wanted) {
    Note(
        fmt::format("--threads {}: the system allows {} thread{} (a limit on processes or memory), so duo uses no more",
                    wanted, BackendThreads(**backend), BackendThreads(**backend) == 1 ? "" : "s"));
  }
  return backend;
}

Result<std::string> ResolveModelDir(const std::string& model) {
  if (model.empty()) return InvalidArgument("--model: is missing; it takes a Hugging Face directory, or demo");
  if (model == "demo") return FindDemoModel();
  if (!FileExists(model) && !IsDirectory(model)) return NotFound("--model: {} does not exist", model);
  return model;
}

Result<std::optional<HeadPattern>> LoadPattern(const CommonOptions& options) {
  if (options.pattern.empty() || options.pattern == "none") {
    const char* flag = options.sparsity ? "--sparsity" : options.threshold ? "--threshold" : nullptr;
    if (flag != nullptr)
      return InvalidArgument("{}: needs --pattern DIR: without a pattern every head is a retrieval head", flag);
    return std::optional<HeadPattern>();
  }
  std::string dir = options.pattern;
  if (dir == "demo") {
    DUO_ASSIGN_OR_RETURN(const std::string model, FindDemoModel());
    dir = model + "/pattern";
  }
  Result<HeadPattern> pattern = LoadHeadPattern(dir);
  if (!pattern.ok()) return pattern.status().Annotate("--pattern");
  return std::optional<HeadPattern>(*std::move(pattern));
}

Result<HeadChoice> ChooseHeads(const CommonOptions& options, const std::optional<HeadPattern>& pattern,
                               const ModelConfig& config) {
  if (!pattern) return AllRetrieval(config.n_layers, config.n_kv_heads);
  const Status fits = CheckPatternShape(*pattern, config.n_layers, config.n_kv_heads);
  if (!fits.ok()) return fits.Annotate("--pattern " + options.pattern);
  if (options.threshold) return ChooseByThreshold(*pattern, *options.threshold);
  if (!options.sparsity)
    Note(fmt::format("neither --sparsity nor --threshold is given: sparsity {} is used", kDefaultSparsity));
  return ChooseBySparsity(*pattern, options.sparsity.value_or(kDefaultSparsity));
}

Result<uint64_t> MemoryLimit(const CommonOptions& options, uint64_t weights_bytes) {
  if (options.memory_bytes == 0) return uint64_t{0};
  if (options.memory_bytes <= weights_bytes) {
    return ResourceExhausted("--memory: the weights alone need {}, but {} are allowed", FormatBytes(weights_bytes),
                             FormatBytes(options.memory_bytes));
  }
  return options.memory_bytes - weights_bytes;
}

Result<SessionOptions> ResolveSession(const CommonOptions& options, const std::optional<HeadPattern>& pattern,
                                      uint64_t weights_bytes) {
  SessionOptions session;
  session.sink = options.sink.value_or(pattern ? pattern->sink : session.sink);
  session.recent = options.recent.value_or(pattern ? pattern->recent : session.recent);
  session.prefill_recent = options.prefill_recent.value_or(0);
  if (options.prefill_recent && *options.prefill_recent < session.recent) {
    return InvalidArgument("--prefill-recent: {} is less than --recent {}", *options.prefill_recent, session.recent);
  }
  session.pinned_prefix = options.pinned_prefix.value_or(0);
  session.chunk = options.chunk;
  session.compute = options.compute;
  session.kv_type = options.kv_type.value_or(options.compute == ComputeType::kF32 ? KvType::kF32 : KvType::kBF16);
  session.max_context = options.max_context;
  session.snapshot_every = options.snapshot_every;
  DUO_ASSIGN_OR_RETURN(session.memory_limit, MemoryLimit(options, weights_bytes));
  return session;
}

Result<std::string> FindDemoModel() {
  const std::string installed = DirectoryOfExecutable() + "/../share/duo/demo";
  for (const std::string& dir : {installed, std::string(DUO_DEMO_DIR)}) {
    if (FileExists(dir + "/config.json")) return dir;
  }
  return NotFound("the embedded model is neither in {} nor in {}", installed, DUO_DEMO_DIR);
}

Result<uint64_t> ParseBytes(const std::string& text) {
  struct Unit {
    const char* name;
    double bytes;
  };
  static constexpr Unit kUnits[] = {{"", 1},      {"B", 1},      {"KB", 1e3},      {"MB", 1e6},     {"GB", 1e9},
                                    {"TB", 1e12}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  const std::string expected = fmt::format("\"{}\" is not a size above 0 such as 24GiB, 512MiB or 16GB", text);
  if (text.empty() || ((text[0] < '0' || text[0] > '9') && text[0] != '.')) {
    return InvalidArgument("{}", expected);
  }
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  while (*end == ' ') ++end;
  for (const Unit& unit : kUnits) {
    if (std::strcmp(end, unit.name) != 0) continue;
    const double bytes = number * unit.bytes;
    if (bytes >= 1 && bytes < 0x1p62) return static_cast<uint64_t>(bytes);
  }
  return InvalidArgument("{}", expected);
}

Result<std::vector<int32_t>> ReadIdsFile(const std::string& path, int64_t vocab_size) {
  DUO_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  if (!json.is_array()) {
    return Corrupt("{}: expected an array of token ids, found {}", path, JsonTypeName(json));
  }
  if (json.empty()) return Corrupt("{}: the array of token ids is empty", path);
  std::vector<int32_t> ids;
  ids.reserve(json.size());
  for (const Json& element : json) {
    const bool is_id =
        element.is_number_integer() &&
        (element.is_number_unsigned() ? element.get<uint64_t>() < static_cast<uint64_t>(vocab_size)
                                      : element.get<int64_t>() >= 0 && element.get<int64_t>() < vocab_size);
    if (!is_id) {
      return Corrupt("{}: index {}: {} is not a token id from 0 to {}", path, ids.size(),
                     element.is_number() ? element.dump() : JsonTypeName(element), vocab_size - 1);
    }
    ids.push_back(static_cast<int32_t>(element.get<int64_t>()));
  }
  return ids;
}

Result<std::vector<ApiKey>> ReadKeyFile(const std::string& path) {
  constexpr size_t kMaxBytes = size_t{1} << 20;
  const Result<std::string> file = ReadFile(path, kMaxBytes);
  if (!file.ok()) return file.status().Annotate("--api-key-file");
  Result<std::vector<ApiKey>> keys = ParseApiKeys(*file, path);
  if (!keys.ok()) return keys.status().Annotate("--api-key-file");
  struct stat info {};
  if (stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && (info.st_mode & S_IROTH) != 0) {
    Note("--api-key-file " + path + ": everybody on this machine can read the keys; `chmod 600` keeps them to you");
  }
  return keys;
}

Result<std::string> ReadTextFile(const std::string& path) {
  return path == "-" ? ReadStandardInput() : ReadFile(path, kMaxTextBytes);
}

}  // namespace duo::cli
