#include "server/cache_spec.h"

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "base/error.h"

namespace duo {
namespace {

Status BadSparsity(std::string_view what) { return InvalidArgument("{}", what).About("sparsity"); }

}  // namespace

Json ToJson(const CacheSpec& spec) {
  Json json = {{"pattern", spec.pattern}, {"pinned_prefix", spec.pinned_prefix}};
  if (spec.sparsity) json["sparsity"] = *spec.sparsity;
  if (spec.sink) json["sink"] = *spec.sink;
  if (spec.recent) json["recent"] = *spec.recent;
  if (!spec.salt.empty()) json["cache_salt"] = spec.salt;
  return json;
}

Result<CacheSpec> CacheSpecFromJson(const Json& json, const std::string& where) {
  if (!json.is_object()) return Corrupt("{}: expected an object", where);
  CacheSpec spec;
  DUO_ASSIGN_OR_RETURN(spec.pattern, JsonStringOr(json, "pattern", "", where));
  DUO_ASSIGN_OR_RETURN(spec.pinned_prefix, JsonIntOr(json, "pinned_prefix", 0, where));
  DUO_ASSIGN_OR_RETURN(spec.salt, JsonStringOr(json, "cache_salt", "", where));
  if (json.contains("sparsity")) {
    DUO_ASSIGN_OR_RETURN(spec.sparsity, JsonNumber(json, "sparsity", where));
  }
  if (json.contains("sink")) {
    DUO_ASSIGN_OR_RETURN(spec.sink, JsonInt(json, "sink", where));
  }
  if (json.contains("recent")) {
    DUO_ASSIGN_OR_RETURN(spec.recent, JsonInt(json, "recent", where));
  }
  return spec;
}

Result<SessionOptions> ResolveSpec(const CacheSpec& spec, const CacheDefaults& defaults, const ModelConfig& config) {
  SessionOptions options = defaults.session;
  const bool full = spec.pattern == "none";
  if (!full && !spec.pattern.empty() && (!defaults.pattern || spec.pattern != defaults.pattern_name)) {
    const std::string other = defaults.pattern ? fmt::format(" or \"{}\"", defaults.pattern_name) : "";
    return InvalidArgument("unknown pattern \"{}\"; expected \"none\"{}", spec.pattern, other).About("pattern");
  }
  if (full) {
    if (spec.sparsity && *spec.sparsity > 0) return BadSparsity("a sparsity contradicts the pattern \"none\"");
    options.heads = AllRetrieval(config.n_layers, config.n_kv_heads);
  } else if (spec.sparsity) {
    if (!defaults.pattern)
      return BadSparsity("a sparsity needs a pattern, but this server was started without a pattern");
    Result<HeadChoice> heads = ChooseBySparsity(*defaults.pattern, *spec.sparsity);
    if (!heads.ok()) return BadSparsity(heads.status().message());
    options.heads = *std::move(heads);
  }
  if (spec.sink) options.sink = *spec.sink;
  if (spec.recent) {
    options.recent = *spec.recent;
    options.prefill_recent = 0;
  }
  options.pinned_prefix = spec.pinned_prefix;
  return ResolveOptions(config, options);
}

bool SameCache(const SessionOptions& a, const SessionOptions& b) {
  return a.heads.retrieval == b.heads.retrieval && a.sink == b.sink && a.recent == b.recent &&
         a.prefill_recent == b.prefill_recent && a.kv_type == b.kv_type && a.compute == b.compute &&
         a.snapshot_every == b.snapshot_every;
}

double SparsityOf(const HeadChoice& heads) {
  if (heads.retrieval.empty()) return 0;
  return 1 - static_cast<double>(heads.n_retrieval()) / static_cast<double>(heads.retrieval.size());
}

}  // namespace duo
