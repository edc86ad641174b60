#include "text/pattern.h"

#include <algorithm>

#include "base/error.h"
#include "text/json_part.h"
#include "text/limits.h"

namespace duo {

Pattern Pattern::Literal(std::string text) {
  Pattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

Pattern Pattern::OfRegex(Regex regex) {
  Pattern pattern;
  pattern.regex_ = std::move(regex);
  return pattern;
}

Result<Pattern> Pattern::Parse(const Json& part, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const Json* spec, JsonObject(part, "pattern", where));
  const std::string here = where + ": pattern";
  if (JsonOptional(*spec, "Regex") != nullptr) {
    DUO_ASSIGN_OR_RETURN(const std::string text, JsonString(*spec, "Regex", here));
    DUO_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(text, here));
    return OfRegex(std::move(regex));
  }
  DUO_ASSIGN_OR_RETURN(std::string text, JsonString(*spec, "String", here));
  if (text.size() > text_limits::kMaxRegexBytes) {
    return Unsupported("{}: String of {} bytes, expected at most {}", here, text.size(), text_limits::kMaxRegexBytes);
  }
  return Literal(std::move(text));
}

void Pattern::FindAll(std::string_view text, std::vector<ByteRange>* matches) const {
  if (regex_.has_value()) return regex_->FindAll(text, matches);
  if (literal_.empty()) return;
  for (size_t pos = text.find(literal_); pos != std::string_view::npos; pos = text.find(literal_, pos)) {
    matches->push_back({pos, pos + literal_.size()});
    pos += literal_.size();
  }
}

std::string Pattern::ReplaceAll(std::string_view text, std::string_view content) const {
  std::vector<ByteRange> matches;
  FindAll(text, &matches);
  std::string out;
  out.reserve(text.size() + matches.size() * content.size());
  size_t copied = 0;
  for (const ByteRange& match : matches) {
    out += text.substr(copied, match.begin - copied);
    out += content;
    copied = match.end;
  }
  out += text.substr(copied);
  return out;
}

Result<std::string> ParseReplacement(const Json& part, const char* key, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(std::string text, JsonString(part, key, where));
  if (text.size() <= text_limits::kMaxReplacementBytes) return text;
  return Unsupported("{}: {}: {} bytes, expected at most {}", where, key, text.size(),
                     text_limits::kMaxReplacementBytes);
}

Status LimitGrowth(const Pattern& pattern, const std::string& content, size_t* growth, const std::string& where) {
  // A regex may match between any two bytes.
  const std::string* literal = pattern.literal();
  const size_t per_byte = literal == nullptr ? content.size() : content.size() / std::max<size_t>(1, literal->size());
  *growth *= 1 + per_byte;
  if (*growth <= text_limits::kMaxGrowth) return OkStatus();
  return Unsupported("{}: the Replace steps can make a text more than {} times as long, which is not supported", where,
                     text_limits::kMaxGrowth);
}

}  // namespace duo
