// Reads UTF-8 one code point at a time, and replaces bytes that are not UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace duo {

inline constexpr uint32_t kReplacementCodePoint = 0xFFFD;
inline constexpr std::string_view kReplacementUtf8 = "\xEF\xBF\xBD";

struct Utf8Step {
  uint32_t code_point;  // kReplacementCodePoint when invalid
  uint32_t n_bytes;     // of the character; when invalid, of the "maximal subpart" that one U+FFFD replaces
  bool valid;
  bool truncated;  // invalid only because the text ended inside the character
};

/// Reads the character at text[pos]; pos < text.size(). Well-formedness follows the Unicode Standard, table 3-7.
/// Maximal subparts follow its section 3.9, as in Python's errors="replace" and Rust's from_utf8_lossy.
Utf8Step NextUtf8(std::string_view text, size_t pos);

/// Where the last character of text[0, end) begins; end > 0.
size_t PreviousUtf8(std::string_view text, size_t end);

void AppendUtf8(uint32_t code_point, std::string* out);
bool IsValidUtf8(std::string_view text);
/// Appends `bytes` to `out` with every maximal invalid subpart replaced by U+FFFD.
void AppendReplacingInvalid(std::string_view bytes, std::string* out);
/// Length of the longest prefix that later bytes cannot change: everything except an unfinished last character.
size_t DecidedPrefix(std::string_view bytes);

/// All code points of `text`; U+FFFD replaces what is not UTF-8.
std::u32string CodePoints(std::string_view text);

/// `text` without the characters at its beginning, or at its end, for which `is_blank` is true.
std::string_view TrimStartIf(std::string_view text, bool (*is_blank)(uint32_t code_point));
std::string_view TrimEndIf(std::string_view text, bool (*is_blank)(uint32_t code_point));

/// Unicode property White_Space.
bool IsWhiteSpace(uint32_t code_point);
/// Whether `\w` of the reference library matches: Alphabetic, marks, decimal digits, connectors, joiners.
bool IsWordCharacter(uint32_t code_point);
/// General categories Nd, Nl and No.
bool IsNumeric(uint32_t code_point);

}  // namespace duo
