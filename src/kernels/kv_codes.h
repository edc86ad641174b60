// Rows of a KV cache as codes of 8 or 4 bits, in blocks of 16 rows whose codes are interleaved, so that one vector has
// the same dimensions of 16 keys, or the same four rows of 16 dimensions of values: decode then needs neither sums
// across lanes nor shuffles. docs/formats.md draws the layout.
// Plain old data and inline constants: instruction-set specific files may include it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/dtype.h"

namespace duo {

constexpr int kCodeRows = 16;  // of a block

/// Bytes of one row's codes, padded: of int8 to 4 dimensions, of int4 to 8.
static inline constexpr int CodeBytes(int bits, int head_dim) {
  return bits == 8 ? (head_dim + 3) / 4 * 4 : (head_dim + 7) / 8 * 4;
}
/// Bytes of a block: codes, then step (low half) and low (high half) of every row, bf16. A multiple of 64.
static inline constexpr size_t CodeBlockBytes(int code_bytes) {
  return kCodeRows * (static_cast<size_t>(code_bytes) + 4);
}

static_assert(KvBlockRows(KvType::kInt8) == kCodeRows && KvBlockRows(KvType::kInt4) == kCodeRows);
static_assert(KvRowBytes(KvType::kInt8, 10) == CodeBytes(8, 10) + 4 &&
              KvRowBytes(KvType::kInt4, 10) == CodeBytes(4, 10) + 4);

/// Keys and values are interleaved differently.
enum class KvPart : uint8_t { kKeys, kValues };

/// How one head's keys or values lie in memory.
struct KvFormat {
  KvPart part = KvPart::kKeys;
  KvType type = KvType::kBF16;
  int head_dim = 0;  // even, 8..512
};

/// The largest magnitude a quantised row holds; larger finite values are clamped. (A range of twice that, a step's
/// multiples and everything between are finite floats.)
constexpr float kMaxQuantized = 0x1p126f;

/// Writes x [head_dim] as row `row` of the quantised cache at `to`: asymmetric, per token and head, as QServe
/// (arXiv:2405.04532 section 4.2) and LServe (arXiv:2502.14866) do. x[i] becomes low + step * code[i], with low the
/// least element rounded down to bf16 and step = (greatest - low) / 255 (15) rounded up to bf16, so that every element
/// lies between the first and the last code: |x[i] - (low + step * code[i])| <= step / 2, rounding apart. A row of
/// equal elements that bf16 holds is exact. A row with an infinity or NaN is all NaN, so that a broken model shows. No
/// byte of another row is written.
void QuantizeRow(const float* x, const KvFormat& format, uint8_t* to, int64_t row);

/// Copies rows [from_row, from_row + n) of one cache of any type to rows [to_row, to_row + n) of another of the same
/// format. The rows must not overlap.
void CopyKvRows(const KvFormat& format, const uint8_t* from, int64_t from_row, uint8_t* to, int64_t to_row, int64_t n);

}  // namespace duo
