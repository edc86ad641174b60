// Positions of tokens on the command line: "all", "last" or "A:B".
#pragma once

#include <cstdint>
#include <string>

#include "duo/result.h"

namespace duo::cli {

/// Positions [begin, end).
struct PositionRange {
  int64_t begin = 0;
  int64_t end = 0;
};

/// Parses "A:B" (both included, within n_tokens), "all" and "last". kInvalidArgument names `flag`.
Result<PositionRange> ParsePositions(const std::string& flag, const std::string& text, int64_t n_tokens);

}  // namespace duo::cli
