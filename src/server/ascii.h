// Characters of HTTP's protocol elements, which are ASCII whatever the locale.
#pragma once

#include <string>

namespace duo {

inline char LowerAscii(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
inline std::string LowerAscii(std::string text) {
  for (char& c : text) c = LowerAscii(c);
  return text;
}
inline bool IsAsciiControl(char c) { return (c >= 0 && c < 0x20) || c == 0x7f; }

}  // namespace duo
