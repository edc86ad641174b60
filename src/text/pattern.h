// {"String": "..."} or {"Regex": "..."}: the text that a Split or Replace matches.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "duo/result.h"
#include "text/regex.h"

namespace duo {

class Pattern {
 public:
  /// Parses the member "pattern" of `part`. Errors: kCorrupt, kUnsupported.
  static Result<Pattern> Parse(const Json& part, const std::string& where);
  static Pattern Literal(std::string text);
  static Pattern OfRegex(Regex regex);

  /// Appends the successive matches. An empty literal matches nowhere.
  void FindAll(std::string_view text, std::vector<ByteRange>* matches) const;
  /// Returns `text` with every match replaced by `content`.
  std::string ReplaceAll(std::string_view text, std::string_view content) const;
  /// The literal; null for a regex.
  const std::string* literal() const { return regex_.has_value() ? nullptr : &literal_; }

 private:
  std::string literal_;
  std::optional<Regex> regex_;
};

/// Reads the member `key` of `part`, the short text that replaces a match. Errors: kCorrupt; kUnsupported beyond
/// kMaxReplacementBytes.
Result<std::string> ParseReplacement(const Json& part, const char* key, const std::string& where);

/// Multiplies `growth` (max bytes out per byte in) by the growth that replacing `pattern` by `content` may cause.
/// Returns kUnsupported beyond text_limits::kMaxGrowth: a sequence of Replace steps must not turn a line into a
/// gigabyte.
Status LimitGrowth(const Pattern& pattern, const std::string& content, size_t* growth, const std::string& where);

}  // namespace duo
