// Reads and writes the published DuoAttention format.
#include "duo/head_pattern.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/strings.h"
#include "heads/pattern_format.h"

namespace duo {
namespace {

using OrderedJson = nlohmann::ordered_json;  // keeps the order of unknown keys

constexpr const char* kGatesName = "full_attention_heads.tsv";
constexpr const char* kConfigName = "config.json";

Status CellError(const std::string& path, size_t line, size_t column, std::string_view cell, const char* expected) {
  return Corrupt("{}: line {}, column {}: \"{}\", expected {}", path, line, column, cell.substr(0, 40), expected);
}

Result<double> ParseGate(std::string_view cell, const std::string& path, size_t line, size_t column) {
  std::string_view digits = Trim(cell, " \r");
  if (digits.size() > 1 && digits[0] == '+' && digits[1] != '-') digits.remove_prefix(1);
  double gate = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), gate);
  if (error == std::errc::result_out_of_range) {
    return CellError(path, line, column, cell, "a number that a double can hold");
  }
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return CellError(path, line, column, cell, "a number");
  }
  if (!std::isfinite(gate)) return CellError(path, line, column, cell, "a finite number");
  return gate;
}

// Appends one row's gates and returns their number.
Result<int> ParseRow(std::string_view row, const std::string& path, size_t line, std::vector<double>* gates) {
  int n = 0;
  for (;;) {
    if (n == limits::kMaxPatternKvHeads) {
      return Corrupt("{}: line {}: more than {} columns", path, line, n);
    }
    const size_t tab = row.find('\t');
    DUO_ASSIGN_OR_RETURN(const double gate, ParseGate(row.substr(0, tab), path, line, n + 1));
    gates->push_back(gate);
    ++n;
    if (tab == std::string_view::npos) return n;
    row.remove_prefix(tab + 1);
  }
}

Status ParseGates(std::string_view tsv, const std::string& path, HeadPattern* pattern) {
  tsv = TrimEnd(tsv, " \r\n");
  if (tsv.empty()) return Corrupt("{}: no gates in this file", path);
  for (size_t line = 1;; ++line) {
    if (pattern->n_layers == limits::kMaxPatternLayers) {
      return Corrupt("{}: more than {} lines", path, pattern->n_layers);
    }
    const size_t newline = tsv.find('\n');
    DUO_ASSIGN_OR_RETURN(const int n, ParseRow(tsv.substr(0, newline), path, line, &pattern->gates));
    if (line == 1) pattern->n_kv_heads = n;
    if (n != pattern->n_kv_heads) {
      return Corrupt("{}: line {}: {} columns, expected {} as in line 1", path, line, n, pattern->n_kv_heads);
    }
    ++pattern->n_layers;
    if (newline == std::string_view::npos) return OkStatus();
    tsv.remove_prefix(newline + 1);
  }
}

// The key that holds the deployed size. Training writes sink_size; deploy_sink_size wins if it is a number.
template <typename AnyJson>
const char* SizeKey(const AnyJson& config, const char* deploy_key, const char* key) {
  const auto it = config.find(deploy_key);
  return it != config.end() && it->is_number() ? deploy_key : key;
}

Result<int64_t> ReadSize(const Json& config, const char* deploy_key, const char* key, int64_t least,
                         const std::string& path) {
  const char* which = SizeKey(config, deploy_key, key);
  DUO_ASSIGN_OR_RETURN(const int64_t tokens, JsonInt(config, which, path));
  if (tokens >= least && tokens <= HeadPattern::kMaxWindow) return tokens;
  return Corrupt("{}: {}: {}, expected {}..{} tokens", path, which, tokens, least, HeadPattern::kMaxWindow);
}

// sink may be 0. The recent window includes the token itself, so it holds at least 1.
Status ReadWindow(const Json& config, const std::string& path, HeadPattern* pattern) {
  if (!config.is_object()) {
    return Corrupt("{}: expected a JSON object, found {}", path, JsonTypeName(config));
  }
  DUO_ASSIGN_OR_RETURN(pattern->sink, ReadSize(config, "deploy_sink_size", "sink_size", 0, path));
  DUO_ASSIGN_OR_RETURN(pattern->recent, ReadSize(config, "deploy_recent_size", "recent_size", 1, path));
  return OkStatus();
}

Status CheckWritable(const HeadPattern& pattern) {
  const bool shape_good = pattern.n_layers > 0 && pattern.n_layers <= limits::kMaxPatternLayers &&
                          pattern.n_kv_heads > 0 && pattern.n_kv_heads <= limits::kMaxPatternKvHeads;
  if (!shape_good || std::ssize(pattern.gates) != pattern.n_layers * pattern.n_kv_heads) {
    return InvalidArgument("a pattern of {} layers x {} kv heads with {} gates", pattern.n_layers, pattern.n_kv_heads,
                           pattern.gates.size());
  }
  for (size_t i = 0; i < pattern.gates.size(); ++i) {
    if (std::isfinite(pattern.gates[i])) continue;
    return InvalidArgument("the gate of layer {}, kv head {} is not finite", i / pattern.n_kv_heads,
                           i % pattern.n_kv_heads);
  }
  if (pattern.sink < 0 || pattern.sink > HeadPattern::kMaxWindow || pattern.recent < 1 ||
      pattern.recent > HeadPattern::kMaxWindow) {
    return InvalidArgument("a pattern with sink {} and recent {}", pattern.sink, pattern.recent);
  }
  return OkStatus();
}

}  // namespace

Result<HeadPattern> ParseHeadPattern(std::string_view tsv, std::string_view config, const std::string& dir) {
  const std::string config_path = dir + "/" + kConfigName;
  HeadPattern pattern;
  DUO_RETURN_IF_ERROR(ParseGates(tsv, dir + "/" + kGatesName, &pattern));
  DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(config, config_path));
  DUO_RETURN_IF_ERROR(ReadWindow(json, config_path, &pattern));
  pattern.config_json = std::string(config);
  return pattern;
}

std::string FormatGates(const HeadPattern& pattern) {
  std::string text;
  for (int layer = 0; layer < pattern.n_layers; ++layer) {
    for (int head = 0; head < pattern.n_kv_heads; ++head) {
      fmt::format_to(std::back_inserter(text), "{:.18e}{}", pattern.gate(layer, head),
                     head + 1 == pattern.n_kv_heads ? '\n' : '\t');
    }
  }
  return text;
}

Result<std::string> FormatPatternConfig(const HeadPattern& pattern) {
  OrderedJson config = OrderedJson::object();
  if (!pattern.config_json.empty()) {
    DUO_ASSIGN_OR_RETURN(const Json checked, ParseJson(pattern.config_json, "the pattern's config"));
    if (!checked.is_object()) {
      return InvalidArgument("the pattern's config: expected an object, found {}", JsonTypeName(checked));
    }
    HeadPattern said;
    const bool complete = ReadWindow(checked, "config", &said).ok();
    if (complete && said.sink == pattern.sink && said.recent == pattern.recent) return pattern.config_json;
    config = OrderedJson::parse(pattern.config_json);  // cannot fail, because ParseJson accepted it above
  }
  config[SizeKey(config, "deploy_sink_size", "sink_size")] = pattern.sink;
  config[SizeKey(config, "deploy_recent_size", "recent_size")] = pattern.recent;
  return config.dump(2) + "\n";
}

Result<HeadPattern> LoadHeadPattern(const std::string& dir) {
  if (!IsDirectory(dir)) return NotFound("{}: no such pattern directory", dir);
  DUO_ASSIGN_OR_RETURN(const std::string tsv, ReadFile(dir + "/" + kGatesName, limits::kMaxPatternBytes));
  DUO_ASSIGN_OR_RETURN(const std::string config, ReadFile(dir + "/" + kConfigName, limits::kMaxPatternConfigBytes));
  return ParseHeadPattern(tsv, config, dir);
}

Status SaveHeadPattern(const HeadPattern& pattern, const std::string& dir) {
  DUO_RETURN_IF_ERROR(CheckWritable(pattern).Annotate(dir));
  DUO_ASSIGN_OR_RETURN(const std::string config, FormatPatternConfig(pattern));
  DUO_RETURN_IF_ERROR(MakeDirectories(dir));
  DUO_RETURN_IF_ERROR(WriteFileAtomic(dir + "/" + kConfigName, config));
  return WriteFileAtomic(dir + "/" + kGatesName, FormatGates(pattern));
}

Status CheckPatternShape(const HeadPattern& pattern, int n_layers, int n_kv_heads) {
  if (pattern.n_layers == n_layers && pattern.n_kv_heads == n_kv_heads) return OkStatus();
  return InvalidArgument("the pattern is for {} layers x {} kv heads, the model has {} layers x {} kv heads",
                         pattern.n_layers, pattern.n_kv_heads, n_layers, n_kv_heads);
}

}  // namespace duo
