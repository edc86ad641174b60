// The cache that a request asks for, and the session options that follow from it and the server's defaults.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "duo/head_pattern.h"
#include "duo/model.h"
#include "duo/session.h"

namespace duo {

/// The cache as the request describes it. An empty field means the server's default.
struct CacheSpec {
  std::string pattern;             // "none", the name of the server's pattern, or empty
  std::optional<double> sparsity;  // [0, 1]
  std::optional<int64_t> sink;     // tokens
  std::optional<int64_t> recent;   // tokens
  int64_t pinned_prefix = 0;       // tokens that every head keeps
  std::string salt;                // only requests with the same salt share prefixes

  bool operator==(const CacheSpec&) const = default;
};

Json ToJson(const CacheSpec& spec);
/// Fails with kCorrupt; the message begins with `where`.
Result<CacheSpec> CacheSpecFromJson(const Json& json, const std::string& where);

/// The cache that the server was started with.
struct CacheDefaults {
  SessionOptions session;              // resolved
  std::optional<HeadPattern> pattern;  // empty for full attention
  std::string pattern_name;
};

/// The options of a session with this spec. Fails with kInvalidArgument, whose subject is the wrong field.
Result<SessionOptions> ResolveSpec(const CacheSpec& spec, const CacheDefaults& defaults, const ModelConfig& config);

/// Whether a sequence with options `a` can continue under `b`: same heads, windows, types and snapshots.
bool SameCache(const SessionOptions& a, const SessionOptions& b);

/// Share of the KV heads that are streaming heads.
double SparsityOf(const HeadChoice& heads);

}  // namespace duo
