#include "cli/positions.h"

#include <fmt/format.h>

#include "base/error.h"

namespace duo::cli {

Result<PositionRange> ParsePositions(const std::string& flag, const std::string& text, int64_t n_tokens) {
  if (text == "all") return PositionRange{0, n_tokens};
  if (text == "last") return PositionRange{n_tokens - 1, n_tokens};
  const size_t colon = text.find(':');
  const auto bad = [&](const std::string& expected) {
    return InvalidArgument("{}: \"{}\" is not {}", flag, text, expected);
  };
  const std::string digits = "0123456789";
  const std::string first = text.substr(0, colon), last = colon == std::string::npos ? "" : text.substr(colon + 1);
  const auto is_number = [&](const std::string& word) {
    return !word.empty() && word.size() <= 15 && word.find_first_not_of(digits) == std::string::npos;
  };
  if (!is_number(first) || !is_number(last)) return bad("all, last or A:B");
  const PositionRange range{std::stoll(first), std::stoll(last) + 1};
  if (range.begin >= range.end || range.end > n_tokens) {
    return bad(fmt::format("a range of positions within 0:{}, both ends included", n_tokens - 1));
  }
  return range;
}

}  // namespace duo::cli
