// What `duo identify` and its `probe` share.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/common_options.h"

namespace duo::cli {

/// Flags that every verb has for serving a chosen split of the heads.
inline const std::vector<std::string> kServingFlags = {"--sparsity", "--threshold",     "--prefill-recent", "--kv-type",
                                                       "--weights",  "--pinned-prefix", "--snapshot-every"};

/// kInvalidArgument for --compute int8.
Status CheckIdentifyCompute(const CommonOptions& options);

/// Throws CLI::ValidationError, "FLAG: reason", for the first of `flags` that was given.
void RefuseFlags(const CLI::App& verb, const std::vector<std::string>& flags, const std::string& reason);

/// Whether the model can run n_tokens at once. kInvalidArgument names the flag; `with_what` tells what is in them.
Status CheckContext(const CommonOptions& options, const ModelConfig& config, int64_t n_tokens,
                    const std::string& with_what);

/// Rows of a flat [n_layers, n_kv_heads].
Json Rows(const std::vector<double>& values, int n_kv_heads);

void AddIdentifyProbe(CLI::App* verb, VerbFunction* run);

}  // namespace duo::cli
