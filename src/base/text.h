// Texts whose blanks are single bytes. Characters of Unicode are in text/utf8.h.
#pragma once

#include <string_view>

namespace duo {

/// `text` without the bytes of `blanks` at its two ends.
inline std::string_view Trim(std::string_view text, std::string_view blanks) {
  const size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return text.substr(0, 0);
  return text.substr(begin, text.find_last_not_of(blanks) + 1 - begin);
}

}  // namespace duo
