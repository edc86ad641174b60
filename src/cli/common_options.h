// Flags that every verb with a model shares, and the steps from their values to a backend, a model and SessionOptions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/progress_bar.h"
#include "duo/backend.h"
#include "duo/dtype.h"
#include "duo/head_pattern.h"
#include "duo/model.h"
#include "duo/result.h"
#include "duo/session.h"
#include "eval/certificate.h"
#include "server/api_keys.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace duo::cli {

/// The flags as parsed. An empty optional or string means that the flag was not given. Parsing checks that values are
/// in range. The functions below find contradictions between flags.
struct CommonOptions {
  std::string model;                // directory, or "demo" for the embedded model
  std::string pattern;              // directory, "demo" for the embedded model's, "none" or empty for full attention
  std::optional<double> sparsity;   // [0, 1]
  std::optional<double> threshold;  // [0, 1]
  std::optional<int64_t> sink;      // tokens
  std::optional<int64_t> recent;    // tokens, >= 1
  std::optional<int64_t> prefill_recent;  // tokens, >= recent
  std::optional<int64_t> pinned_prefix;   // tokens
  int64_t snapshot_every = 0;             // tokens, 0 = no snapshots
  int64_t chunk = 512;                    // tokens
  ComputeType compute = ComputeType::kBF16;
  std::optional<KvType> kv_type;
  WeightType weights = WeightType::kNative;
  int threads = 0;  // 0 = all cores of this process
  Device device = Device::kCpu;
  uint64_t seed = 0;
  uint64_t memory_bytes = 0;  // limit for weights, KV and activations together; 0 = what the system has
  int64_t max_context = 0;    // tokens, 0 = the model's trained context
  bool json = false;
  ProgressBar::Show progress = ProgressBar::Show::kAuto;
};

/// Adds all common flags to `verb`. `options` must live until the verb ran. The parser does not require --model, so
/// that a verb may offer --config instead. LoadModel reports when --model is missing.
void AddCommonOptions(CLI::App* verb, CommonOptions* options);

// Single common flags, for verbs without the others.
CLI::Option* AddModelOption(CLI::App* verb, std::string* model);
void AddThreadsOption(CLI::App* verb, int* n_threads);
void AddJsonFlag(CLI::App* verb, bool* json);
void AddProgressFlag(CLI::App* verb, ProgressBar::Show* progress);

/// A model that is ready to run. The members are in the order of their lifetimes: the backend outlives the model.
struct LoadedModel {
  BackendPtr backend;
  Model model;
  std::string dir;                         // the checkpoint's directory, also for "demo"
  std::optional<HeadPattern> pattern;      // empty for full attention
  SessionOptions session;                  // heads, window, types, limits: ready for Session::Create
  std::optional<Certificate> certificate;  // found beside the pattern
};

/// Opens backend, model and pattern and resolves the session's options. kInvalidArgument names the flag.
/// Writes the notes of NoteModel to stderr. A note says that sparsity 0.5 was chosen, when --sparsity and --threshold
/// are missing and the pattern has no certificate (a certificate has its own choice). A note says that single channels
/// of the model's keys are too large for --kv-type.
Result<LoadedModel> LoadModel(const CommonOptions& options);

/// Writes the model's notes to stderr, one line each: which parts of its files are ignored, what limits the context.
void NoteModel(const ModelConfig& config);

/// Writes one line to stderr when the loaded type of weights did badly where it was measured (docs/quality.md).
void NoteMeasuredLoss(const LoadedModel& loaded);

/// Writes one line to stderr: what the certificate beside the pattern says, or that it is about another model or
/// choice.
void NoteCertificate(const LoadedModel& loaded);

// The steps of LoadModel, for verbs that need only some of them (such as a config without weights).

/// Writes a note to stderr when the system allows fewer threads than --threads.
Result<BackendPtr> MakeBackend(const CommonOptions& options);

/// Returns `model`, or FindDemoModel() for "demo". kInvalidArgument when `model` is empty.
Result<std::string> ResolveModelDir(const std::string& model);

/// Opens the model with weights of the type --weights, with a progress bar while it is quantised. Errors as
/// Model::Open.
Result<Model> OpenModel(const CommonOptions& options, const std::string& dir, Backend* backend);

/// The pattern of --pattern; empty for full attention. kInvalidArgument when --sparsity or --threshold is given without
/// a pattern.
Result<std::optional<HeadPattern>> LoadPattern(const CommonOptions& options);

/// The choice of heads by --sparsity or --threshold. Without both it is sparsity 0.5, which a note on stderr says.
/// Without a pattern every head is a retrieval head. kInvalidArgument when the pattern does not have the model's shape.
Result<HeadChoice> ChooseHeads(const CommonOptions& options, const std::optional<HeadPattern>& pattern,
                               const ModelConfig& config);

/// --memory minus the weights; 0 without the flag. kResourceExhausted when the weights alone need more.
Result<uint64_t> MemoryLimit(const CommonOptions& options, uint64_t weights_bytes);

/// Returns all session options except `heads`, which the caller sets. The window comes from the flags, else from the
/// pattern, else from the defaults. memory_limit is MemoryLimit().
Result<SessionOptions> ResolveSession(const CommonOptions& options, const std::optional<HeadPattern>& pattern,
                                      uint64_t weights_bytes);

/// The directory of the embedded model: <prefix>/share/duo/demo of an installed duo, else the one in the source tree.
/// kNotFound names both.
Result<std::string> FindDemoModel();

/// Parses a size in bytes: "24GiB", "512MiB", "16GB", "1048576". KiB, MiB, GiB and TiB are powers of 1024; KB, MB, GB
/// and TB are powers of 1000. A bare number is bytes. Fractions are allowed. kInvalidArgument for anything else.
Result<uint64_t> ParseBytes(const std::string& text);

/// Reads a JSON array of token ids. kNotFound, kIo; kCorrupt names the file and the index of an element that is not an
/// id in [0, vocab_size).
Result<std::vector<int32_t>> ReadIdsFile(const std::string& path, int64_t vocab_size);

/// Reads the keys of --api-key-file; see ParseApiKeys. Writes a note to stderr when everybody may read the file. Errors
/// name the flag.
Result<std::vector<ApiKey>> ReadKeyFile(const std::string& path);

/// Reads the whole file, or standard input for "-". The limit is 1 GiB.
Result<std::string> ReadTextFile(const std::string& path);

}  // namespace duo::cli
