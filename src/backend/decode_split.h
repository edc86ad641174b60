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

/// Whether the other heads of a call may decide where a head's rows are cut. The cuts show in the last bits: another
/// order of additions.
enum class DecodeCut : uint8_t {
  kBalanced,  // all pieces have one size, so that every thread is busy
  kByHead,    // by the head's own rows alone, as if all heads of its sequence were like it
};

/// How many pieces SplitDecode makes at most for the heads of n_sequences sequences.
int64_t MaxDecodePieces(int64_t n_heads_each, int64_t n_sequences, int n_threads, DecodeCut cut);

/// Cuts every range of every head into pieces, chosen so that each thread gets several pieces (for balance) but none is
/// so short that its fixed cost shows. The union of pieces is exactly the union of ranges. n_heads_each: heads of one
/// sequence.
std::vector<DecodePiece> SplitDecode(std::span<const DecodeHead> heads, int64_t n_heads_each, int n_threads,
                                     DecodeCut cut);

}  // namespace duo
