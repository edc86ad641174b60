// Small operations on text: white space at its ends, and the characters of UTF-8.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace duo {

inline constexpr std::string_view kWhiteSpace = " \t\r\n";

/// `text` without the characters of `blanks` at its beginning, at its end, or at both.
constexpr std::string_view TrimStart(std::string_view text, std::string_view blanks = kWhiteSpace) {
  return text.substr(std::min(text.find_first_not_of(blanks), text.size()));
}
constexpr std::string_view TrimEnd(std::string_view text, std::string_view blanks = kWhiteSpace) {
  return text.substr(0, text.find_last_not_of(blanks) + 1);  // npos + 1 is 0
}
constexpr std::string_view Trim(std::string_view text, std::string_view blanks = kWhiteSpace) {
  return TrimEnd(TrimStart(text, blanks), blanks);
}

/// Whether a byte of UTF-8 is not the first byte of its character.
constexpr bool IsUtf8Continuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

/// The number of characters in valid UTF-8.
constexpr int64_t CountCharacters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(), [](char byte) { return !IsUtf8Continuation(byte); });
}

}  // namespace duo
