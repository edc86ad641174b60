// The flags of generate and chat that say how text is made.
#pragma once

#include "cli/common_options.h"
#include "duo/generate.h"

namespace duo::cli {

/// --max-tokens, --temperature, --top-k, --top-p, --min-p, --repetition-penalty, --stop, with the defaults that
/// `options` has when this is called. The seed comes from CommonOptions when the verb runs.
void AddGenerateOptions(CLI::App* verb, GenerateOptions* options);

}  // namespace duo::cli
