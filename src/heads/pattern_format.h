// The published pattern format as text, separate from files so that it can be fuzzed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "duo/head_pattern.h"
#include "duo/result.h"

namespace duo {

// Bounds on a pattern, checked before anything is computed from it.
namespace limits {
inline constexpr size_t kMaxPatternBytes = 64u << 20;  // full_attention_heads.tsv
inline constexpr size_t kMaxPatternConfigBytes = 16u << 20;
inline constexpr int kMaxPatternLayers = 1024;
inline constexpr int kMaxPatternKvHeads = 4096;
}  // namespace limits

/// `tsv` has one row per layer, with one tab-separated number per kv head. CRLF and blank lines at the end are
/// accepted. `dir` names the two files in messages. Errors as LoadHeadPattern.
Result<HeadPattern> ParseHeadPattern(std::string_view tsv, std::string_view config, const std::string& dir);

/// Formats gates like the reference: "%.18e", which distinguishes any two doubles. A newline ends every row.
std::string FormatGates(const HeadPattern& pattern);

/// Returns pattern.config_json with the pattern's sink and recent in the keys that loading reads. The text is unchanged
/// if it already has these values. kInvalidArgument when config_json is not a JSON object.
Result<std::string> FormatPatternConfig(const HeadPattern& pattern);

}  // namespace duo
