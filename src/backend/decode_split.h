// How a decode step's work is cut into pieces for the threads: across heads and along the sequence.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace duo {

/// Rows [begin, end) of one head. Pieces of one head are adjacent in the list.
struct DecodePiece {
  int32_t head = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

/// How many pieces SplitDecode makes at most for one call with n_heads heads.
int64_t MaxDecodePieces(int64_t n_heads, int n_threads);

/// Cuts every range of every head into pieces of at most the same number of rows, chosen so that each thread gets
/// several pieces (for balance) but none is so short that its fixed cost shows. The union of pieces is exactly the
/// union of ranges.
std::vector<DecodePiece> SplitDecode(std::span<const DecodeHead> heads, int n_threads);

}  // namespace duo
