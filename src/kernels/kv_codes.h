// Rows of a KV cache as codes of 8 or 4 bits, in blocks of 16 rows whose codes are interleaved. One vector then has the
// same dimensions of 16 keys, or four rows of 16 dimensions of values. So decode needs neither sums across lanes nor
// shuffles. docs/formats.md draws the layout.
// Plain old data and inline constants, so instruction-set specific files may include this header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/dtype.h"

namespace duo {

constexpr int kCodeRows = 16;  // rows per block

/// Bytes of one row's codes: int8 is padded to a multiple of 4 dimensions, int4 to a multiple of 8.
static inline constexpr int CodeBytes(int bits, int head_dim) {
  return bits == 8 ? (head_dim + 3) / 4 * 4 : (head_dim + 7) / 8 * 4;
}
/// Bytes of a block: the codes, then for every row a word with step (low half) and low (high half), both bf16. A
/// multiple of 64.
static inline constexpr size_t CodeBlockBytes(int code_bytes) {
  return kCodeRows * (static_cast<size_t>(code_bytes) + 4);
}

static_assert(KvBlockRows(KvType::kInt8) == kCodeRows && KvBlockRows(KvType::kInt4) == kCodeRows);
static_assert(KvRowBytes(KvType::kInt8, 10) == CodeBytes(8, 10) + 4 &&
              KvRowBytes(KvType::kInt4, 10) == CodeBytes(4, 10) + 4);

/// Keys and values are interleaved differently.
enum class KvPart : uint8_t { kKeys, kValues };

/// The memory layout of one head's keys or values.
struct KvFormat {
  KvPart part = KvPart::kKeys;
  KvType type = KvType::kBF16;
  int head_dim = 0;  // even, 8..512
};

/// The largest magnitude a quantised row holds; larger finite values are clamped. So the range of a row (at most twice
/// this) and all multiples of its step are finite floats.
constexpr float kMaxQuantized = 0x1p126f;

/// Writes x [head_dim] as row `row` of the quantised cache at `to`. The quantisation is asymmetric, per token and head,
/// as in QServe (arXiv:2405.04532 section 4.2) and LServe (arXiv:2502.14866):
///   x[i] ~ low + step * code[i].
/// Low is the smallest element rounded down to bf16. Step is (largest - low) / 255 for int8, / 15 for int4, rounded up
/// to bf16. So every element lies between the first and the last code, and apart from rounding
/// |x[i] - (low + step * code[i])| <= step / 2.
///
/// A row of equal elements is exact if bf16 holds them. A row with an infinity or NaN becomes all NaN, so that a broken
/// model shows. No byte of another row is written.
void QuantizeRow(const float* x, const KvFormat& format, uint8_t* to, int64_t row);

/// Copies rows [from_row, from_row + n) of one cache of any type to rows [to_row, to_row + n) of another of the same
/// format. The rows must not overlap.
void CopyKvRows(const KvFormat& format, const uint8_t* from, int64_t from_row, uint8_t* to, int64_t to_row, int64_t n);

}  // namespace duo
