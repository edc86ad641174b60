#include "kernels/kv_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/bf16.h"

namespace duo {
namespace {

constexpr int kMostDims = 512;

struct Range {
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();
  float poison = 0.0f;  // NaN when any element is not finite
};

// Eight of each, so that no comparison waits for the one before it.
Range RangeOf(const float* x, int n) {
  constexpr int kChains = 8;
  Range chain[kChains];
  for (int i = 0; i < n; ++i) {
    Range& r = chain[i % kChains];
    r.low = x[i] < r.low ? x[i] : r.low;
    r.high = x[i] > r.high ? x[i] : r.high;
    r.poison += x[i] * 0.0f;
  }
  Range all = chain[0];
  for (const Range& r : chain) {
    all.low = std::min(all.low, r.low);
    all.high = std::max(all.high, r.high);
    all.poison += r.poison;
  }
  return all;
}

// The nearest bf16 number that is not above x.
bf16 RoundDown(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const bool negative = (bits >> 31) != 0, cut = (bits & 0xffffu) != 0;
  return {static_cast<uint16_t>((bits >> 16) + (negative && cut ? 1u : 0u))};
}

bf16 RoundUp(float x) {
  const bf16 down = RoundDown(-x);
  return {static_cast<uint16_t>(down.bits ^ 0x8000u)};
}

// Where the bytes of one row are: byte i of its codes at codes + i / 4 * word_step + i % 4 * byte_step. Of keys, a word
// of four for every row; of values, four rows together.
struct RowBytes {
  size_t codes;
  size_t word_step;
  size_t byte_step;
  size_t params;
  size_t n_words;
};

RowBytes BytesOf(const KvFormat& format, int64_t row) {
  const auto code_bytes = static_cast<size_t>(CodeBytes(format.type == KvType::kInt8 ? 8 : 4, format.head_dim));
  const size_t block = static_cast<size_t>(row / kCodeRows) * kCodeRows * (code_bytes + 4);
  const auto lane = static_cast<size_t>(row % kCodeRows);
  RowBytes bytes;
  bytes.params = block + kCodeRows * code_bytes + 4 * lane;
  bytes.n_words = code_bytes / 4;
  const bool keys = format.part == KvPart::kKeys;
  bytes.codes = block + (keys ? 4 * lane : lane / 4 * 4 * code_bytes + lane % 4);
  bytes.word_step = keys ? 4 * kCodeRows : 16;
  bytes.byte_step = keys ? 1 : 4;
  return bytes;
}

// Single bytes: other threads may be writing other rows of the same blocks.
void CopyRow(const KvFormat& format, const uint8_t* from, int64_t from_row, uint8_t* to, int64_t to_row) {
  const RowBytes a = BytesOf(format, from_row), b = BytesOf(format, to_row);
  for (size_t word = 0; word < a.n_words; ++word) {
    for (size_t i = 0; i < 4; ++i) {
      to[b.codes + word * b.word_step + i * b.byte_step] = from[a.codes + word * a.word_step + i * a.byte_step];
    }
  }
  std::memcpy(to + b.params, from + a.params, 4);
}

}  // namespace

void QuantizeRow(const float* x, const KvFormat& format, uint8_t* to, int64_t row) {
  const bool bytes = format.type == KvType::kInt8;
  const int levels = bytes ? 255 : 15;
  const Range range = RangeOf(x, format.head_dim);
  const bool finite = range.poison == 0.0f;
  const float least = std::clamp(range.low, -kMostQuantized, kMostQuantized);
  const float most = std::clamp(range.high, -kMostQuantized, kMostQuantized);
  const bf16 low = finite ? RoundDown(least) : ToBf16(std::numeric_limits<float>::quiet_NaN());
  const bf16 step = finite ? RoundUp((most - ToFloat(low)) / static_cast<float>(levels)) : ToBf16(0.0f);
  const float first = ToFloat(low), width = ToFloat(step);
  uint8_t codes[kMostDims + 8] = {};
  if (width > 0) {
    for (int i = 0; i < format.head_dim; ++i) {
      const float at = (std::clamp(x[i], least, most) - first) / width + 0.5f;
      codes[i] = static_cast<uint8_t>(std::min(static_cast<int>(at), levels));
    }
  }
  // Of keys, a word has dimensions 8 j + i in its low and 8 j + 4 + i in its high halves, so that four queries in a row
  // meet each; of values, byte i has dimensions 2 i and 2 i + 1.
  const RowBytes out = BytesOf(format, row);
  const bool keys = format.part == KvPart::kKeys;
  for (size_t word = 0; word < out.n_words; ++word) {
    for (size_t i = 0; i < 4; ++i) {
      const size_t d = bytes ? 4 * word + i : 8 * word + (keys ? i : 2 * i);
      const int code = bytes ? codes[d] : codes[d] | codes[d + (keys ? 4 : 1)] << 4;
      to[out.codes + word * out.word_step + i * out.byte_step] = static_cast<uint8_t>(code);
    }
  }
  std::memcpy(to + out.params, &step, sizeof step);
  std::memcpy(to + out.params + sizeof step, &low, sizeof low);
}

void CopyKvRows(const KvFormat& format, const uint8_t* from, int64_t from_row, uint8_t* to, int64_t to_row, int64_t n) {
  const int block = KvBlockRows(format.type);
  const auto bytes = [row = KvRowBytes(format.type, format.head_dim)](int64_t n_rows) {
    return static_cast<size_t>(n_rows) * row;
  };
  while (n > 0) {
    if (from_row % block == 0 && to_row % block == 0 && n >= block) {
      const int64_t whole = n / block * block;
      std::memcpy(to + bytes(to_row), from + bytes(from_row), bytes(whole));
      from_row += whole, to_row += whole, n -= whole;
    } else {
      CopyRow(format, from, from_row++, to, to_row++);
      --n;
    }
  }
}

}  // namespace duo
