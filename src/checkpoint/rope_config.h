// Reads the RoPE part of config.json for hf_config.cc. It has a file of its own because its keys have changed almost
// every year.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "checkpoint/hf_config.h"
#include "duo/result.h"

namespace duo {

/// Reads `rope_scaling` (`type` or `rope_type`), or the newer `rope_parameters`. The latter is one object, or one per
/// layer type, of which "full_attention" counts. `rope_theta` may be inside this object or beside it. Errors as
/// ParseHfConfig.
Result<RopeConfig> ParseRopeConfig(const Json& config, int64_t max_position_embeddings, const std::string& where);

}  // namespace duo
