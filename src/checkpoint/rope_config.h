// The RoPE part of config.json (used by hf_config.cc; apart because it has a dialect for every year).
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "checkpoint/hf_config.h"
#include "duo/result.h"

namespace duo {

/// The value of `key`, or a null that lives for ever when `object` has no such key or is no object.
inline const Json& JsonMember(const Json& object, const char* key) {
  static const Json null;
  if (!object.is_object()) return null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

/// Reads `rope_scaling` (`type` or `rope_type`), or the newer `rope_parameters` (one object, or one per layer type, of
/// which "full_attention" counts), and `rope_theta` from inside it or beside it. Errors as ParseHfConfig.
Result<RopeConfig> ParseRopeConfig(const Json& config, int64_t max_position_embeddings, const std::string& where);

}  // namespace duo
