// Flags of generate and chat that decide how text is generated.
#pragma once

#include "cli/common_options.h"
#include "duo/generate.h"

namespace duo::cli {

/// Adds --max-tokens, --temperature, --top-k, --top-p, --min-p, --repetition-penalty and --stop. Their defaults are the
/// values that `options` has when this is called. The seed comes from CommonOptions when the verb runs.
void AddGenerateOptions(CLI::App* verb, GenerateOptions* options);

}  // namespace duo::cli
