#include "checkpoint/rope_config.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "checkpoint/limits.h"

namespace duo {
namespace {

std::string Number(double x) { return Json(x).dump(); }

Result<double> PositiveOr(const Json& object, const char* key, double fallback, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const double x, JsonNumberOr(object, key, fallback, where));
  if (!std::isfinite(x) || x <= 0 || x > 1e12) {
    return Corrupt("{}: {}: {}, expected a number > 0", where, key, Number(x));
  }
  return x;
}

Result<double> Positive(const Json& object, const char* key, const std::string& where) {
  DUO_RETURN_IF_ERROR(JsonNumber(object, key, where).status());
  return PositiveOr(object, key, 1.0, where);
}

// For beta_fast and beta_slow, null and 0 mean the default, as in transformers.
Result<double> BetaOr(const Json& object, const char* key, double fallback, const std::string& where) {
  const Json* value = JsonOptional(object, key);
  if (value != nullptr && value->is_number() && value->get<double>() == 0.0) return fallback;
  return PositiveOr(object, key, fallback, where);
}

Result<RopeType> TypeFromName(const std::string& name, const std::string& where) {
  for (const RopeType type :
       {RopeType::kDefault, RopeType::kLinear, RopeType::kLlama3, RopeType::kYarn, RopeType::kDynamic}) {
    if (name == RopeTypeName(type)) return type;
  }
  return Unsupported("{}: rope type \"{}\"; duo knows default, linear, llama3, yarn and dynamic", where, name);
}

// The object with the scaling's keys, and its name for messages. When both exist, rope_scaling overrides
// rope_parameters, as in transformers.
struct ScalingObject {
  const Json* json = nullptr;
  std::string where;
  bool per_layer_type = false;
};

Result<ScalingObject> FindScaling(const Json& config, const std::string& where) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* value = JsonOptional(config, key);
    if (value == nullptr || (value->is_object() && value->empty())) continue;
    const std::string place = where + ": " + key;
    if (!value->is_object()) return Corrupt("{}: expected an object, found {}", place, JsonTypeName(*value));
    const Json* full = JsonOptional(*value, "full_attention");
    if (full != nullptr && full->is_object()) return ScalingObject{full, place + ".full_attention", true};
    return ScalingObject{value, place, false};
  }
  return ScalingObject{nullptr, where, false};
}

/// A key of the scaling that is accepted, because duo reads it or because it changes nothing.
struct KnownKey {
  const char* name;
  std::vector<RopeType> types;  // empty = all
  bool only_one = false;        // accepted only with the value 1, which changes nothing
};

const std::vector<KnownKey>& KnownKeys() {
  using enum RopeType;
  static const std::vector<KnownKey> keys = {
      {"rope_type", {}},
      {"type", {}},
      {"rope_theta", {}},
      {"partial_rotary_factor", {}},  // checked to be 1
      {"factor", {kLinear, kLlama3, kYarn, kDynamic}},
      {"factor", {kDefault}, true},
      {"original_max_position_embeddings", {}},  // read for llama3 and yarn; unused by the others
      {"low_freq_factor", {kLlama3}},
      {"high_freq_factor", {kLlama3}},
      {"attention_factor", {kYarn}},
      {"beta_fast", {kYarn}},
      {"beta_slow", {kYarn}},
      {"mscale", {kYarn}},
      {"mscale_all_dim", {kYarn}},
      {"truncate", {kYarn}},
      {"finetuned", {kYarn}},  // the first YaRN models have it; it changes nothing
      // Other engines multiply by these.
      {"extrapolation_factor", {kYarn}, true},
      {"attn_factor", {kYarn}, true},
      // For positions in images. Text has the same position in every section.
      {"mrope_section", {kDefault}},
      {"mrope_interleaved", {kDefault}},
  };
  return keys;
}

/// Refuses unknown keys. If a misspelt key, or a key of another library, were ignored, every answer would be slightly
/// wrong.
Status CheckKeys(const Json& json, RopeType type, const std::string& where) {
  for (const auto& [key, value] : json.items()) {
    std::string read;
    bool known = value.is_null();
    for (const KnownKey& k : KnownKeys()) {
      if (!k.types.empty() && std::find(k.types.begin(), k.types.end(), type) == k.types.end()) continue;
      known = known || (key == k.name && (!k.only_one || value == 1));
      if (!k.only_one) read += (read.empty() ? "" : ", ") + std::string(k.name);
    }
    if (known) continue;
    const char* hint =
        key == "attn_factor"
            ? "; programs disagree about its meaning: write attention_factor, by which cos and sin are multiplied"
            : "";
    return Unsupported("{}: {} {}: duo knows no such key for rope type {} ({}){}", where, key.substr(0, 100),
                       JsonText(value).substr(0, 60), RopeTypeName(type), read, hint);
  }
  return OkStatus();
}

Result<int64_t> OriginalPositions(const Json& config, const ScalingObject& scaling, int64_t max_position_embeddings) {
  // Some models have the key beside rope_scaling. transformers prefers that one.
  const bool outside = !scaling.per_layer_type && JsonOptional(config, "original_max_position_embeddings") != nullptr;
  DUO_ASSIGN_OR_RETURN(const int64_t n, JsonIntOr(outside ? config : *scaling.json, "original_max_position_embeddings",
                                                  max_position_embeddings, scaling.where));
  if (n < 1 || n > limits::kMaxPositions) {
    return Corrupt("{}: original_max_position_embeddings: {}, expected at least 1", scaling.where, n);
  }
  return n;
}

Status ReadLlama3(const Json& json, const std::string& where, RopeConfig* rope) {
  DUO_ASSIGN_OR_RETURN(rope->factor, Positive(json, "factor", where));
  DUO_ASSIGN_OR_RETURN(rope->low_freq_factor, Positive(json, "low_freq_factor", where));
  DUO_ASSIGN_OR_RETURN(rope->high_freq_factor, Positive(json, "high_freq_factor", where));
  if (rope->high_freq_factor > rope->low_freq_factor) return OkStatus();
  return Corrupt("{}: high_freq_factor {}, expected more than low_freq_factor {}", where,
                 Number(rope->high_freq_factor), Number(rope->low_freq_factor));
}

// The function g in the comment of RopeConfig::attention_factor.
double YarnMagnitude(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

Status ReadYarn(const Json& json, int64_t max_position_embeddings, const std::string& where, RopeConfig* rope) {
  const double ratio =
      static_cast<double>(max_position_embeddings) / static_cast<double>(rope->original_max_position_embeddings);
  DUO_ASSIGN_OR_RETURN(rope->factor, PositiveOr(json, "factor", ratio, where));
  DUO_ASSIGN_OR_RETURN(rope->beta_fast, BetaOr(json, "beta_fast", 32.0, where));
  DUO_ASSIGN_OR_RETURN(rope->beta_slow, BetaOr(json, "beta_slow", 1.0, where));
  if (rope->beta_fast < rope->beta_slow) {
    return Corrupt("{}: beta_fast {}, expected at least beta_slow {}", where, Number(rope->beta_fast),
                   Number(rope->beta_slow));
  }
  DUO_ASSIGN_OR_RETURN(rope->truncate, JsonBoolOr(json, "truncate", true, where));
  DUO_ASSIGN_OR_RETURN(rope->mscale, JsonNumberOr(json, "mscale", 0.0, where));
  DUO_ASSIGN_OR_RETURN(rope->mscale_all_dim, JsonNumberOr(json, "mscale_all_dim", 0.0, where));
  double magnitude = YarnMagnitude(rope->factor, 1.0);
  if (rope->mscale != 0 && rope->mscale_all_dim != 0) {
    magnitude = YarnMagnitude(rope->factor, rope->mscale) / YarnMagnitude(rope->factor, rope->mscale_all_dim);
    if (!std::isfinite(magnitude) || magnitude <= 0) {
      return Corrupt("{}: mscale {} and mscale_all_dim {} give no positive attention factor", where,
                     Number(rope->mscale), Number(rope->mscale_all_dim));
    }
  }
  DUO_ASSIGN_OR_RETURN(rope->attention_factor, PositiveOr(json, "attention_factor", magnitude, where));
  return OkStatus();
}

}  // namespace

const char* RopeTypeName(RopeType type) {
  switch (type) {
    case RopeType::kDefault: return "default";
    case RopeType::kLinear: return "linear";
    case RopeType::kLlama3: return "llama3";
    case RopeType::kYarn: return "yarn";
    case RopeType::kDynamic: return "dynamic";
  }
  return "?";
}

Result<RopeConfig> ParseRopeConfig(const Json& config, int64_t max_position_embeddings, const std::string& where) {
  RopeConfig rope;
  DUO_ASSIGN_OR_RETURN(const ScalingObject scaling, FindScaling(config, where));
  DUO_ASSIGN_OR_RETURN(rope.theta, PositiveOr(config, "rope_theta", rope.theta, where));
  for (const Json* object : {&config, scaling.json}) {
    if (object == nullptr) continue;
    DUO_ASSIGN_OR_RETURN(const double share, JsonNumberOr(*object, "partial_rotary_factor", 1.0, where));
    if (share != 1.0) {
      return Unsupported("{}: partial_rotary_factor {}; duo rotates whole heads only (partial_rotary_factor 1)", where,
                         Number(share));
    }
  }
  if (scaling.json != nullptr) {
    const Json& json = *scaling.json;
    DUO_ASSIGN_OR_RETURN(rope.theta, PositiveOr(json, "rope_theta", rope.theta, scaling.where));
    DUO_ASSIGN_OR_RETURN(const std::string old_name, JsonStringOr(json, "type", "default", scaling.where));
    DUO_ASSIGN_OR_RETURN(const std::string name, JsonStringOr(json, "rope_type", old_name, scaling.where));
    DUO_ASSIGN_OR_RETURN(rope.type, TypeFromName(name, scaling.where));
    DUO_RETURN_IF_ERROR(CheckKeys(json, rope.type, scaling.where));
    if (rope.type == RopeType::kLinear || rope.type == RopeType::kDynamic) {
      DUO_ASSIGN_OR_RETURN(rope.factor, Positive(json, "factor", scaling.where));
    }
    if (rope.type == RopeType::kLlama3 || rope.type == RopeType::kYarn) {
      DUO_ASSIGN_OR_RETURN(rope.original_max_position_embeddings,
                           OriginalPositions(config, scaling, max_position_embeddings));
    }
    if (rope.type == RopeType::kLlama3) DUO_RETURN_IF_ERROR(ReadLlama3(json, scaling.where, &rope));
    if (rope.type == RopeType::kYarn) {
      DUO_RETURN_IF_ERROR(ReadYarn(json, max_position_embeddings, scaling.where, &rope));
    }
  }
  // Frequencies are theta^(-2i/d), which must fall with i.
  if (rope.theta > 1.0) return rope;
  return Corrupt("{}: rope_theta {}, expected more than 1", where, Number(rope.theta));
}

}  // namespace duo
