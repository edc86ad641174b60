// Which cache a request wants, in its own words, and the options that follow from the server's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "duo/head_pattern.h"
#include "duo/model.h"
#include "duo/session.h"

namespace duo {

/// As asked; what is empty is the server's.
struct CacheSpec {
  std::string pattern;             // "none", the name of the server's, or empty
  std::optional<double> sparsity;  // [0, 1]
  std::optional<int64_t> sink;     // tokens
  std::optional<int64_t> recent;
  int64_t pinned_prefix = 0;  // tokens no head may forget
  std::string salt;           // prefixes are shared between requests with the same one only

  bool operator==(const CacheSpec&) const = default;
};

Json ToJson(const CacheSpec& spec);
/// kCorrupt, begins with `where`.
Result<CacheSpec> CacheSpecFromJson(const Json& json, const std::string& where);

/// What the server was started with.
struct CacheDefaults {
  SessionOptions session;              // resolved
  std::optional<HeadPattern> pattern;  // empty for full attention
  std::string pattern_name;
};

/// The options of a session of this spec. kInvalidArgument about the field.
Result<SessionOptions> ResolveSpec(const CacheSpec& spec, const CacheDefaults& defaults, const ModelConfig& config);

/// Whether a sequence with options `a` can go on under `b`: the same heads, windows and types.
bool SameCache(const SessionOptions& a, const SessionOptions& b);

/// Share of KV heads that are streaming.
double SparsityOf(const HeadChoice& heads);

}  // namespace duo
