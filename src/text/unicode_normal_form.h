// Unicode normalisation forms (UAX #15) over utf8proc's tables.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace duo {

enum class NormalForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

/// `text` must be valid UTF-8. O(n log n) in the longest run of combining marks, linear in everything else.
std::string ToNormalForm(std::string_view text, NormalForm form);

}  // namespace duo
