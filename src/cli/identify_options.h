// Flags and checks that `duo identify` and `duo identify probe` share.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/common_options.h"

namespace duo::cli {

/// Common flags that only have a meaning when a chosen split of the heads is served.
inline const std::vector<std::string> kServingFlags = {"--sparsity", "--threshold",     "--prefill-recent", "--kv-type",
                                                       "--weights",  "--pinned-prefix", "--snapshot-every"};

/// kInvalidArgument for --compute int8, which cannot find heads.
Status CheckIdentifyCompute(const CommonOptions& options);

/// Throws CLI::ValidationError, "FLAG: reason", for the first of `flags` that was given.
void RefuseFlags(const CLI::App& verb, const std::vector<std::string>& flags, const std::string& reason);

/// Checks that the model can run n_tokens at once. kInvalidArgument names the flag; `with_what` (" with ...") becomes
/// part of the sentence.
Status CheckContext(const CommonOptions& options, const ModelConfig& config, int64_t n_tokens,
                    const std::string& with_what);

/// Turns a flat [n_layers, n_kv_heads] into an array of rows, one for each layer.
Json Rows(const std::vector<double>& values, int n_kv_heads);

void AddIdentifyProbe(CLI::App* verb, VerbFunction* run);

}  // namespace duo::cli
