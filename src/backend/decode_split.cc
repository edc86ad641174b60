#include "backend/decode_split.h"

#include <algorithm>

#include "base/align.h"

namespace duo {
namespace {

// In a shorter piece the fixed cost (rounding q, merging states) would matter.
constexpr int64_t kMinPieceRows = 256;
// A multiple of every kernel's block of rows. Pieces are then whole blocks if the range begins at a block; a range of a
// ring may not.
constexpr int64_t kPieceMultiple = 128;
// Enough pieces per thread that losing a core for a moment does not hold up the other threads.
constexpr int64_t kPiecesPerThread = 8;

int64_t RowsOf(const DecodeHead& head) {
  int64_t rows = 0;
  for (const RowRange& range : head.ranges) rows += range.end - range.begin;
  return rows;
}

/// Rows per piece if the threads share `total` rows.
int64_t PieceRows(int64_t total, int n_threads) {
  const int64_t wanted = n_threads == 1 ? total : DivideUp(total, n_threads * kPiecesPerThread);
  return RoundUp(std::max(wanted, kMinPieceRows), kPieceMultiple);
}

}  // namespace

// Each of a head's two ranges may end in a short piece.
int64_t MaxDecodePieces(int64_t n_heads_each, int64_t n_sequences, int n_threads, DecodeCut cut) {
  const int64_t n_shares = cut == DecodeCut::kByHead ? n_sequences : 1;
  return n_shares * n_threads * kPiecesPerThread + 2 * n_heads_each * n_sequences;
}

std::vector<DecodePiece> SplitDecode(std::span<const DecodeHead> heads, int64_t n_heads_each, int n_threads,
                                     DecodeCut cut) {
  int64_t total = 0;
  for (const DecodeHead& head : heads) total += RowsOf(head);
  std::vector<DecodePiece> pieces;
  for (int64_t h = 0; h < std::ssize(heads); ++h) {
    const int64_t shared = cut == DecodeCut::kByHead ? n_heads_each * RowsOf(heads[h]) : total;
    const int64_t piece_rows = PieceRows(shared, n_threads);
    for (const RowRange& range : heads[h].ranges) {
      for (int64_t begin = range.begin; begin < range.end; begin += piece_rows) {
        pieces.push_back({h, {begin, std::min(begin + piece_rows, range.end)}});
      }
    }
  }
  return pieces;
}

}  // namespace duo
