// What `duo identify` and its `probe` share.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"

namespace duo::cli {

/// Flags that every verb has for serving a chosen split of the heads.
inline const std::vector<std::string> kServingFlags = {"--sparsity", "--threshold",     "--prefill-recent",
                                                       "--kv-type",  "--pinned-prefix", "--snapshot-every"};

/// Throws CLI::ValidationError, "FLAG: reason", for the first of `flags` that was given.
void RefuseFlags(const CLI::App& verb, const std::vector<std::string>& flags, const std::string& reason);

/// Rows of a flat [n_layers, n_kv_heads].
Json Rows(const std::vector<double>& values, int n_kv_heads);

void AddIdentifyProbe(CLI::App* verb, VerbFunction* run);

}  // namespace duo::cli
