// {"String": "..."} or {"Regex": "..."}: what a Split or Replace looks for.
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
  /// The member "pattern" of `part`. kCorrupt, kUnsupported.
  static Result<Pattern> Parse(const Json& part, const std::string& where);
  static Pattern Literal(std::string text);
  static Pattern OfRegex(Regex regex);

  /// Appends the successive matches; an empty literal matches nowhere.
  void FindAll(std::string_view text, std::vector<ByteRange>* matches) const;
  /// `text` with every match replaced by `content`.
  std::string ReplaceAll(std::string_view text, std::string_view content) const;
  /// The literal, or null for a regex.
  const std::string* literal() const { return regex_.has_value() ? nullptr : &literal_; }

 private:
  std::string literal_;
  std::optional<Regex> regex_;
};

/// The short string `key` that is put in place of matches. kCorrupt; kUnsupported beyond kMaxReplacementBytes.
Result<std::string> ParseReplacement(const Json& part, const char* key, const std::string& where);

/// Multiplies `growth` (bytes out per byte in, at most) by what replacing `pattern` by `content` may add. kUnsupported
/// beyond text_limits::kMaxGrowth: a sequence of Replace steps must not turn a line into a gigabyte.
Status LimitGrowth(const Pattern& pattern, const std::string& content, size_t* growth, const std::string& where);

}  // namespace duo
