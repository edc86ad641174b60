#include "text/regex_translate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"

namespace duo {
namespace {

// Members of \s: the property White_Space. PCRE2's own \s also contains U+180E.
constexpr std::string_view kSpaceMembers =
    R"(\x{09}-\x{0d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
// Members of \w (UTS #18 without the joiners). PCRE2's own \w excludes marks.
constexpr std::string_view kWordMembers = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

constexpr std::array<std::string_view, 39> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd",  "Nl",
    "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc",  "Sk",
    "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cn", "Co", "Cs", "Any", "White_Space"};

bool IsAsciiDigit(char c) { return c >= '0' && c <= '9'; }
bool IsHexDigit(char c) { return IsAsciiDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool IsAsciiLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  Result<std::string> Run() {
    while (pos_ < in_.size()) DUO_RETURN_IF_ERROR(Step());
    if (in_class_) return Refuse("a character class without an end");
    return std::move(out_);
  }

 private:
  Status Step() {
    const char c = in_[pos_];
    if (c == '\\') return Escape();
    if (in_class_) return ClassMember();
    if (c == '[') return OpenClass();
    if (c == '(') return Group();
    if (c == '{') return Repeat();
    return Copy(1);
  }

  Status ClassMember() {
    const char c = in_[pos_];
    if (c == '[') return Refuse("a set inside a character class");
    if (c == '&' && Peek(1) == '&') return Refuse("an intersection (&&) inside a character class");
    if (c == ']') in_class_ = false;
    return Copy(1);
  }

  Status OpenClass() {
    in_class_ = true;
    DUO_RETURN_IF_ERROR(Copy(1));
    if (Peek(0) == '^') DUO_RETURN_IF_ERROR(Copy(1));
    if (Peek(0) == ']') return Refuse("a character class that begins with ]");
    return OkStatus();
  }

  Status Group() {
    if (Peek(1) != '?') return Copy(1);
    const std::string_view rest = in_.substr(pos_);
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"}) {
      if (rest.substr(0, known.size()) == known) return Copy(known.size());
    }
    // Elsewhere, Ruby's (?i) extends over alternatives and PCRE2's does not.
    if (pos_ == 0 && rest.substr(0, 4) == "(?i)") return Copy(4);
    return Refuse(fmt::format("the group {}", rest.substr(0, 4)));
  }

  Status Repeat() {
    const size_t close = in_.find('}', pos_);
    const std::string_view body = close == std::string_view::npos ? "" : in_.substr(pos_ + 1, close - pos_ - 1);
    const bool is_count = !body.empty() && body != "," &&
                          std::all_of(body.begin(), body.end(), [](char c) { return IsAsciiDigit(c) || c == ','; });
    if (!is_count) return Refuse("a brace that is not a repeat count (escape it)");
    const char after = close + 1 < in_.size() ? in_[close + 1] : '\0';
    if (after == '+') return Refuse("a + after a repeat count");
    if (after == '?' && body.find(',') == std::string_view::npos) return Refuse("a ? after a fixed repeat count");
    out_ += '{';
    if (body[0] == ',') out_ += '0';
    out_ += body;
    out_ += '}';
    pos_ = close + 1;
    return OkStatus();
  }

  Status Escape() {
    const char c = Peek(1);
    switch (c) {
      case '\0': return Refuse("a backslash before nothing");
      case 's': return Emit(in_class_ ? std::string(kSpaceMembers) : fmt::format("[{}]", kSpaceMembers));
      case 'S': return Emit(in_class_ ? R"(\P{White_Space})" : fmt::format("[^{}]", kSpaceMembers));
      case 'w': return Emit(in_class_ ? std::string(kWordMembers) : fmt::format("[{}]", kWordMembers));
      case 'W':
        if (in_class_) return Refuse("\\W inside a character class");
        return Emit(fmt::format("[^{}]", kWordMembers));
      case 'v': return Emit(R"(\x{0b})");
      case 'x': return HexEscape();
      case 'u': return UnicodeEscape();
      case 'p':
      case 'P': return Property();
      case 'd':
      case 'D':
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e': return Copy(2);
      case 'A':
      case 'z':
      case 'Z':
        if (!in_class_) return Copy(2);
        break;
      default:
        if (!IsAsciiLetter(c) && !IsAsciiDigit(c)) return Copy(2);
    }
    return Refuse(fmt::format("the escape \\{}", c));
  }

  Status HexEscape() {
    if (Peek(2) == '{') {
      const size_t close = in_.find('}', pos_);
      if (close == std::string_view::npos) return Refuse("\\x{ without }");
      return Copy(close + 1 - pos_);
    }
    // A two-digit \xHH from 80 up is a raw byte in Oniguruma and a code point in PCRE2.
    if (Peek(2) >= '0' && Peek(2) <= '7' && IsHexDigit(Peek(3))) return Copy(4);
    return Refuse("the escape \\x with other than two digits below 80");
  }

  Status UnicodeEscape() {
    const std::string_view digits = in_.substr(std::min(pos_ + 2, in_.size())).substr(0, 4);
    const bool hex = std::all_of(digits.begin(), digits.end(), IsHexDigit);
    if (digits.size() < 4 || !hex) return Refuse("the escape \\u without four hexadecimal digits");
    out_.append("\\x{").append(digits).append("}");
    pos_ += 6;
    return OkStatus();
  }

  Status Property() {
    const size_t close = Peek(2) == '{' ? in_.find('}', pos_) : std::string_view::npos;
    if (close == std::string_view::npos) return Refuse("\\p without {...}");
    std::string_view name = in_.substr(pos_ + 3, close - pos_ - 3);
    bool negated = in_[pos_ + 1] == 'P';
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    out_ += negated ? "\\P{" : "\\p{";
    // A bare script name means Script in Oniguruma and Script_Extensions in PCRE2.
    if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end()) out_ += "sc:";
    out_ += name;
    out_ += '}';
    pos_ = close + 1;
    return OkStatus();
  }

  char Peek(size_t ahead) const { return pos_ + ahead < in_.size() ? in_[pos_ + ahead] : '\0'; }
  Status Copy(size_t n) {
    out_ += in_.substr(pos_, n);
    pos_ += n;
    return OkStatus();
  }
  // Replaces a two-character escape.
  Status Emit(std::string_view text) {
    out_ += text;
    pos_ += 2;
    return OkStatus();
  }
  Status Refuse(const std::string& what) const {
    return Unsupported("{}: regex {} at byte {}: duo does not know {}", where_, in_.substr(0, 200), pos_, what);
  }

  std::string_view in_;
  const std::string& where_;
  size_t pos_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

Result<std::string> TranslateOniguruma(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).Run();
}

}  // namespace duo
