// Tiles of prefill_loop.h made from the codes of quantised rows (kv_codes.h), for a vector type V. Codes become floats,
// and a tile of keys has one column per row. A cache policy (cache_policy.h), for prefill only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/code_products.h"
#include "kernels/cpu/attention/kv_rows.h"
#include "kernels/cpu/attention/prefill_plan.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/kv_codes.h"

namespace duo {
namespace {

// A block of 16 rows, some of which belong to a tile.
struct CodeBlock {
  const char* codes;
  const char* params;
  int first;    // the block's rows [first, last) belong to the tile
  int last;     // exclusive
  int64_t row;  // place of row `first` in the tile
};

// The block that contains row `at`, for a tile of rows [row, row + n).
DUO_ALWAYS_INLINE CodeBlock BlockAt(const char* base, int code_bytes, int64_t row, int64_t n, int64_t at) {
  CodeBlock b;
  b.codes = base + at / kCodeRows * CodeBlockBytes(code_bytes);
  b.params = b.codes + kCodeRows * code_bytes;
  b.first = static_cast<int>(at % kCodeRows);
  const int64_t left = row + n - (at - b.first);
  b.last = left < kCodeRows ? static_cast<int>(left) : kCodeRows;
  b.row = at - row;
  return b;
}

struct StepAndLow {
  float step;
  float low;
};
DUO_ALWAYS_INLINE StepAndLow ParamsOf(const char* params, int row) {
  uint32_t bits[2];
  __builtin_memcpy(bits, params + 4 * row, 4);
  bits[1] = bits[0] & 0xffff0000u;
  bits[0] <<= 16;
  StepAndLow p;
  __builtin_memcpy(&p, bits, sizeof p);
  return p;
}

template <Vec V, int bits>
struct FloatCodeTiles : FloatProducts<V, F32Rows<V>> {
  using F = typename V::F;
  using Codes = FloatCodes<V, bits>;
  static constexpr int kKeyTile = 48;  // plus up to 15 columns before the first key
  // The 4 are padding: 64 columns would put all dimensions into a quarter of a cache's sets.
  static constexpr int kColumns = kKeyTile + kCodeRows + 4;
  static constexpr int kKeyStep = 4 * kColumns;
  static_assert(kColumns <= kTileUnits);  // a column has a unit per dimension
  DUO_ALWAYS_INLINE size_t RowBytes(int head_dim) { return CodeBytes(bits, head_dim) + 4; }

  static TileRows PrepareKeys(const char* base, int64_t row, int64_t n, int head_dim, int, float* tile, TileParams) {
    const int code_bytes = CodeBytes(bits, head_dim);
    const int64_t offset = row % kCodeRows;
    for (int64_t at = row; at < row + n; at += kCodeRows - at % kCodeRows) {
      const CodeBlock b = BlockAt(base, code_bytes, row, n, at);
      for (int lane = 0; lane < kCodeRows; lane += V::kLanes) {
        alignas(64) float step[V::kLanes], low[V::kLanes];
        for (int i = 0; i < V::kLanes; ++i) {
          const StepAndLow p = ParamsOf(b.params, lane + i);
          step[i] = p.step, low[i] = p.low;
        }
        const F steps = V::Load(step), lows = V::Load(low);
        float* out = tile + (at - b.first - row + offset) + lane;
        for (int word = 0; word < code_bytes / 4; ++word) {
          F code[Codes::kKeyCodes];
          Codes::SplitKeys(b.codes + 4 * (word * kCodeRows + lane), code);
          for (int i = 0; i < Codes::kKeyCodes; ++i, out += kColumns) V::Store(out, V::Fma(steps, code[i], lows));
        }
      }
    }
    return {reinterpret_cast<const char*>(tile + offset), 4};
  }

  static TileRows PrepareValues(const char* base, int64_t row, int64_t n, int head_dim, int padded_dim, float* tile) {
    constexpr int kWidth = Codes::kOutputs * V::kLanes;
    const int code_bytes = CodeBytes(bits, head_dim);
    for (int64_t at = row; at < row + n; at += kCodeRows - at % kCodeRows) {
      const CodeBlock b = BlockAt(base, code_bytes, row, n, at);
      for (int quad = b.first / 4; quad * 4 < b.last; ++quad) {
        for (int d = 0; d < head_dim; d += kWidth) {
          F code[Codes::kOutputs * 4];
          Codes::SplitValues(b.codes + 4 * (quad * code_bytes + d / Codes::kOutputs), code);
          for (int t = 0; t < 4; ++t) {
            const int r = 4 * quad + t;
            if (r < b.first || r >= b.last) continue;
            const StepAndLow p = ParamsOf(b.params, r);
            float* out = tile + (b.row + r - b.first) * padded_dim + d;
            F x = V::Fma(V::Set(p.step), code[t], V::Set(p.low)), y = x;
            if constexpr (bits == 4) {
              y = V::Fma(V::Set(p.step), code[4 + t], V::Set(p.low));
              V::Interleave(&x, &y);
              V::Store(out + V::kLanes, y);
            }
            V::Store(out, x);
          }
        }
      }
    }
    return {reinterpret_cast<const char*>(tile), padded_dim * sizeof(float)};
  }
};

}  // namespace
}  // namespace duo
