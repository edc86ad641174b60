// Where the codes of a row of a quantised cache are (docs/formats.md), and how its two parameters are rounded. Used by
// the kernels that write and copy rows, on the CPU and on GPUs (device code may call constexpr functions).
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/kv_codes.h"

namespace duo {

/// Byte offsets from row 0 of the cache. A word is four bytes of codes. Keys keep a word per row; in values the bytes
/// of four rows are interleaved.
struct CodeRow {
  int64_t codes;
  int64_t params;  // step, then low: bf16
  int word_step;   // bytes between words
  int byte_step;   // bytes between the bytes of a word
  int n_words;     // words of four bytes, including padding

  /// Offset of byte i of a word.
  constexpr int64_t At(int word, int i) const { return codes + int64_t{word} * word_step + i * byte_step; }
};

/// type: kInt8 or kInt4.
constexpr CodeRow CodeRowOf(const KvFormat& format, int64_t row) {
  const int code_bytes = CodeBytes(format.type == KvType::kInt8 ? 8 : 4, format.head_dim);
  const int64_t block = row / kCodeRows * kCodeRows * (code_bytes + 4);
  const int lane = static_cast<int>(row % kCodeRows);
  const bool keys = format.part == KvPart::kKeys;
  return {.codes = block + (keys ? 4 * lane : lane / 4 * 4 * code_bytes + lane % 4),
          .params = block + kCodeRows * code_bytes + 4 * lane,
          .word_step = keys ? 4 * kCodeRows : 16,
          .byte_step = keys ? 1 : 4,
          .n_words = code_bytes / 4};
}

/// Byte i of a word, from the codes of all dimensions of the row, padded with zeros.
/// In int4 keys, the low half of byte i of word j has dimension 8 j + i, the high half 8 j + 4 + i. So the low halves
/// of a word meet four consecutive elements of the query, and so do the high halves. In int4 values, a byte has two
/// neighbouring dimensions.
constexpr uint8_t CodeByte(const KvFormat& format, const uint8_t* codes, int word, int i) {
  if (format.type == KvType::kInt8) return codes[4 * word + i];
  const bool keys = format.part == KvPart::kKeys;
  const int low = 8 * word + (keys ? i : 2 * i), high = low + (keys ? 4 : 1);
  return static_cast<uint8_t>(codes[low] | codes[high] << 4);
}

/// Where CodeByte has the code of dimension d.
struct CodePlace {
  int word, i, shift;
};
constexpr CodePlace PlaceOfCode(const KvFormat& format, int d) {
  if (format.type == KvType::kInt8) return {d / 4, d % 4, 0};
  if (format.part == KvPart::kKeys) return {d / 8, d % 4, d % 8 < 4 ? 0 : 4};
  return {d / 8, d / 2 % 4, d % 2 * 4};
}

/// The bits of the nearest bf16 number that is not above x; RoundUpToBf16: not below x. x is finite.
constexpr uint16_t RoundDownToBf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const bool negative = (bits >> 31) != 0, cut = (bits & 0xffffu) != 0;
  return static_cast<uint16_t>((bits >> 16) + (negative && cut ? 1u : 0u));
}
constexpr uint16_t RoundUpToBf16(float x) { return RoundDownToBf16(-x) ^ 0x8000u; }

}  // namespace duo
