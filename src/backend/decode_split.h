// Cuts the work of a decode step into pieces for the threads: by head, and along the sequence.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention_work.h"

namespace duo {

/// Rows of one head. Pieces of one head are adjacent in the list.
struct DecodePiece {
  int64_t head = 0;
  RowRange rows;
};

/// Whether the place of a head's cuts may depend on the other heads of the call. Other cuts change the order of
/// additions, and with it the last bits of the result.
enum class DecodeCut : uint8_t {
  kBalanced,  // all pieces have one size, so that every thread is busy
  kByHead,    // depends on the head's own rows alone, as if all heads of its sequence had as many
};

/// Upper bound of the pieces that SplitDecode makes for the heads of n_sequences sequences.
int64_t MaxDecodePieces(int64_t n_heads_each, int64_t n_sequences, int n_threads, DecodeCut cut);

/// Cuts every range of every head into pieces. Each thread gets several pieces, for balance, but no piece is so short
/// that its fixed cost matters. The union of the pieces is exactly the union of the ranges. n_heads_each: heads of one
/// sequence.
std::vector<DecodePiece> SplitDecode(std::span<const DecodeHead> heads, int64_t n_heads_each, int n_threads,
                                     DecodeCut cut);

}  // namespace duo
