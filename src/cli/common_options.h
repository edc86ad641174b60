// Flags that every verb with a model shares, and what they mean: from text to backend, model and SessionOptions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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
}

namespace duo::cli {

/// As parsed; an empty optional or string = the flag was not given. Values are in range (checked while parsing),
/// contradictions between flags are found by the functions below.
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
  bool progress = false;  // show progress on stderr even when it is not a terminal
};

/// Adds all common flags to `verb`. `options` must live until the verb ran. --model is not required by the parser:
/// LoadModel says when it is missing, so that a verb may offer --config instead.
void AddCommonOptions(CLI::App* verb, CommonOptions* options);

/// What runs: members in the order of their lifetimes (the backend outlives the model).
struct LoadedModel {
  BackendPtr backend;
  Model model;
  std::string dir;                         // with "demo" resolved
  std::optional<HeadPattern> pattern;      // empty for full attention
  SessionOptions session;                  // heads, window, types, limits: ready for Session::Create
  std::optional<Certificate> certificate;  // beside the pattern
};

/// Opens backend, model and pattern and resolves the session's options. Says on stderr what NoteModel says, when it
/// chose sparsity 0.5 because a pattern came without --sparsity and --threshold (a pattern with a certificate then has
/// its own choice), and when single channels of the model's keys are too large for --kv-type. kInvalidArgument names
/// the flag.
Result<LoadedModel> LoadModel(const CommonOptions& options);

/// The model's notes, one line on stderr each: what of its files is ignored, what limits the context.
void NoteModel(const ModelConfig& config);

/// One line on stderr when the loaded types of weights did badly where they were measured (docs/quality.md).
void NoteMeasuredLoss(const LoadedModel& loaded);

/// One line on stderr: what the certificate beside the pattern says, or that it is not about this model or choice.
void NoteCertificate(const LoadedModel& loaded);

// The steps of LoadModel, for verbs that need only some of them (a config without weights).

Result<BackendPtr> MakeBackend(const CommonOptions& options);

/// `model` with "demo" replaced by FindDemoModel(). kInvalidArgument when it is empty.
Result<std::string> ResolveModelDir(const std::string& model);

/// Opens the model of --weights, with a progress bar while it is quantised. Errors as Model::Open.
Result<Model> OpenModel(const CommonOptions& options, const std::string& dir, Backend* backend);

/// The pattern of --pattern; empty for full attention. kInvalidArgument when --sparsity or --threshold lack it.
Result<std::optional<HeadPattern>> LoadPattern(const CommonOptions& options);

/// The choice of heads by --sparsity or --threshold (neither: sparsity 0.5, said on stderr); every head retrieval
/// without a pattern. kInvalidArgument when the pattern is not of this model's shape.
Result<HeadChoice> ChooseHeads(const CommonOptions& options, const std::optional<HeadPattern>& pattern,
                               const ModelConfig& config);

/// --memory less the weights, 0 without the flag. kResourceExhausted when the weights alone need more.
Result<uint64_t> MemoryLimit(const CommonOptions& options, uint64_t weights_bytes);

/// Everything but `heads`, which the caller sets: window (flags, else the pattern's, else the defaults), chunk, types,
/// and memory_limit = MemoryLimit.
Result<SessionOptions> ResolveSession(const CommonOptions& options, const std::optional<HeadPattern>& pattern,
                                      uint64_t weights_bytes);

/// The directory of the embedded model: that of the build tree, else <prefix>/share/duo/demo beside the executable.
/// kNotFound lists where it looked.
Result<std::string> FindDemoModel();

/// "24GiB", "512MiB", "16GB", "1048576": bytes (KiB, MiB, GiB, TiB are powers of 1024; KB, MB, GB, TB of 1000; a bare
/// number is bytes; fractions allowed). kInvalidArgument.
Result<uint64_t> ParseBytes(const std::string& text);

/// A JSON array of token ids. kNotFound, kIo; kCorrupt names file and index of what is no id in [0, vocab_size).
Result<std::vector<int32_t>> ReadIdsFile(const std::string& path, int64_t vocab_size);

/// The keys of --api-key-file; see ParseApiKeys. A file that everybody may read gets a note. Errors name the flag.
Result<std::vector<ApiKey>> ReadKeyFile(const std::string& path);

/// The whole file, or standard input for "-". At most 1 GiB.
Result<std::string> ReadTextFile(const std::string& path);

}  // namespace duo::cli
