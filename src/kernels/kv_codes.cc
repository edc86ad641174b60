#include "kernels/kv_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/bf16.h"
#include "kernels/kv_code_layout.h"

namespace duo {
namespace {

constexpr int kMaxDims = 512;

struct Range {
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();
  float poison = 0.0f;  // NaN when any element is not finite
};

// Keeps eight independent ranges, so that no comparison waits for the one before it.
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

// Copies single bytes, because other threads may be writing other rows of the same blocks.
void CopyRow(const KvFormat& format, const uint8_t* from, int64_t from_row, uint8_t* to, int64_t to_row) {
  const CodeRow a = CodeRowOf(format, from_row), b = CodeRowOf(format, to_row);
  for (int word = 0; word < a.n_words; ++word) {
    for (int i = 0; i < 4; ++i) to[b.At(word, i)] = from[a.At(word, i)];
  }
  std::memcpy(to + b.params, from + a.params, 4);
}

}  // namespace

void QuantizeRow(const float* x, const KvFormat& format, uint8_t* to, int64_t row) {
  const int levels = format.type == KvType::kInt8 ? 255 : 15;
  const Range range = RangeOf(x, format.head_dim);
  const bool finite = range.poison == 0.0f;
  const float least = std::clamp(range.low, -kMaxQuantized, kMaxQuantized);
  const float most = std::clamp(range.high, -kMaxQuantized, kMaxQuantized);
  const bf16 low = finite ? bf16{RoundDownToBf16(least)} : ToBf16(std::numeric_limits<float>::quiet_NaN());
  const bf16 step = finite ? bf16{RoundUpToBf16((most - ToFloat(low)) / static_cast<float>(levels))} : bf16{0};
  const float first = ToFloat(low), width = ToFloat(step);
  uint8_t codes[kMaxDims + 8] = {};
  if (width > 0) {
    for (int i = 0; i < format.head_dim; ++i) {
      const float at = (std::clamp(x[i], least, most) - first) / width + 0.5f;
      codes[i] = static_cast<uint8_t>(std::min(static_cast<int>(at), levels));
    }
  }
  const CodeRow out = CodeRowOf(format, row);
  const KvFormat own = format;  // a copy, so that the compiler need not reload it after every stored byte
  for (int word = 0; word < out.n_words; ++word) {
    for (int i = 0; i < 4; ++i) to[out.At(word, i)] = CodeByte(own, codes, word, i);
  }
  std::memcpy(to + out.params, &step, sizeof step);
  std::memcpy(to + out.params + sizeof step, &low, sizeof low);
}

void CopyKvRows(const KvFormat& format, const uint8_t* from, int64_t from_row, uint8_t* to, int64_t to_row, int64_t n) {
  const int block = KvBlockRows(format.type);
  const auto bytes = [row = KvRowBytes(format.type, format.head_dim)](int64_t n_rows) { return n_rows * row; };
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
