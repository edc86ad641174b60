// Flags of `duo identify`, and checks that it shares with `duo identify probe`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "identify/trainer.h"

namespace duo::cli {

enum class IdentifyMethod : uint8_t { kOptimize, kRepeat, kProfile, kMass };
const char* MethodName(IdentifyMethod method);

struct IdentifyOptions {
  CommonOptions common;
  IdentifyMethod method = IdentifyMethod::kOptimize;
  std::optional<int64_t> min_length;
  std::optional<int64_t> max_length;  // its default depends on the method
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

/// Adds all flags of `duo identify` except --out.
void AddIdentifyOptions(CLI::App* verb, IdentifyOptions* options);

/// Refuses flags that have no meaning with the method, so that nobody believes they had an effect. Throws
/// CLI::ValidationError.
void RefuseMeaninglessFlags(const CLI::App& verb, const IdentifyOptions& options);

/// The training texts' options. Their lengths depend on the method where the flags do not give them. kInvalidArgument
/// when the shortest text is longer than the longest.
Result<PasskeyOptions> DataOptions(const IdentifyOptions& options);

/// All options of the training run except its recipe and memory limit.
TrainerOptions TrainingOptions(const IdentifyOptions& options);

/// Checks the window that the pattern will be served with: fails before the work, not when the pattern is written.
Status CheckDeployWindow(const IdentifyOptions& options, const TrainerOptions& trainer);

/// Common flags that only have a meaning when a chosen split of the heads is served.
inline const std::vector<std::string> kServingFlags = {"--sparsity", "--threshold",     "--prefill-recent", "--kv-type",
                                                       "--weights",  "--pinned-prefix", "--snapshot-every"};

/// kInvalidArgument for --compute int8, which cannot find heads.
Status CheckIdentifyCompute(const CommonOptions& options);

/// Checks that the model can run n_tokens at once. kInvalidArgument names the flag; `with_what` (" with ...") becomes
/// part of the sentence.
Status CheckContext(const CommonOptions& options, const ModelConfig& config, int64_t n_tokens,
                    const std::string& with_what);

/// Turns a flat [n_layers, n_kv_heads] into an array of rows, one for each layer.
Json Rows(const std::vector<double>& values, int n_kv_heads);

void AddIdentifyProbe(CLI::App* verb, VerbFunction* run);

}  // namespace duo::cli
