// GEMV over int4 weights (kernels/weight_codes.h) for a vector type V, with products of floats. A lane is an output, so
// that a group's scales are one vector and nothing is summed across lanes.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/cpu/code_products.h"
#include "kernels/cpu/inline.h"
#include "kernels/dense.h"

namespace duo {
namespace {

constexpr int64_t kPieceInputs = 64;
constexpr size_t kPieceBytes = 2 * (256 + 32);

// Adds the sums of 16 outputs to y.
DUO_ALWAYS_INLINE void StoreOutputs(const Gemv4& p, int64_t row, const float* sums) {
  for (int64_t i = 0; i < 16 && row + i < p.row_end; ++i) {
    float sum = sums[i];
    if (p.bias != nullptr) sum += p.bias[row + i];
    p.y[row + i] = p.accumulate != 0 ? p.y[row + i] + sum : sum;
  }
}

template <class V>
struct Gemv4Loop {
  using F = typename V::F;
  using Codes = FloatCodes<V, 4>;

  // Floats, zeros behind n_in.
  static void Prepare(const float* x, int64_t n_in, void* out) {
    auto* to = static_cast<float*>(out);
    const int64_t padded = (n_in + kPieceInputs - 1) / kPieceInputs * kPieceInputs;
    for (int64_t i = 0; i < padded; ++i) to[i] = i < n_in ? x[i] : 0.0f;
  }

  // kLanes outputs of a group of 32 inputs: sum (code - 8) x.
  DUO_ALWAYS_INLINE F GroupSum(const char* codes, const float* x) {
    const F eight = V::Set(8.0f);
    F sum[4] = {V::Zero(), V::Zero(), V::Zero(), V::Zero()};
    for (int word = 0; word < 4; ++word, codes += 64, x += 8) {
      F code[8];
      Codes::SplitKeys(codes, code);
      DUO_UNROLL for (int i = 0; i < 8; ++i) sum[i % 4] = V::Fma(V::Sub(code[i], eight), V::Set(x[i]), sum[i % 4]);
    }
    return V::Add(V::Add(sum[0], sum[1]), V::Add(sum[2], sum[3]));
  }

  static void Run(const Gemv4& p) {
    const int64_t n_pieces = (p.n_in + kPieceInputs - 1) / kPieceInputs;
    for (int64_t row = p.row_begin; row < p.row_end; row += 16) {
      const char* piece = reinterpret_cast<const char*>(p.w) + static_cast<size_t>(row / 16 * n_pieces) * kPieceBytes;
      const float* x = static_cast<const float*>(p.x);
      F total[16 / V::kLanes];
      for (int l = 0; l < 16 / V::kLanes; ++l) total[l] = V::Zero();
      for (int64_t i = 0; i < n_pieces; ++i, piece += kPieceBytes, x += kPieceInputs) {
        for (int half = 0; half < 2; ++half) {
          for (int l = 0; l < 16 / V::kLanes; ++l) {
            V::Prefetch(piece + 4096 + 64 * (4 * half + l));
            const F scale = V::LoadBf16(piece + 512 + 32 * half + 2 * V::kLanes * l);
            total[l] = V::Fma(scale, GroupSum(piece + 256 * half + 4 * V::kLanes * l, x + 32 * half), total[l]);
          }
        }
      }
      alignas(64) float sums[16];
      for (int l = 0; l < 16 / V::kLanes; ++l) V::Store(sums + l * V::kLanes, total[l]);
      StoreOutputs(p, row, sums);
    }
  }

  static void Unpack(const uint8_t* block, int64_t row, int64_t first, int64_t n, float* out) {
    const uint8_t* piece = block + static_cast<size_t>(first / kPieceInputs) * kPieceBytes;
    const F eight = V::Set(8.0f);
    for (int64_t at = 0; at < n; at += 32) {
      const int64_t half = at / 32 % 2;
      const uint8_t* codes = piece + 256 * half + 4 * row;
      int8_t code[32];
      for (int word = 0; word < 4; ++word) {
        uint32_t x;
        __builtin_memcpy(&x, codes + 64 * word, sizeof x);
        const uint32_t low = x & 0x0f0f0f0fu, high = x >> 4 & 0x0f0f0f0fu;
        __builtin_memcpy(code + 8 * word, &low, sizeof low);
        __builtin_memcpy(code + 8 * word + 4, &high, sizeof high);
      }
      bf16 scale;
      __builtin_memcpy(&scale, piece + 512 + 32 * half + 2 * row, sizeof scale);
      const uint32_t bits = static_cast<uint32_t>(scale.bits) << 16;
      float factor;
      __builtin_memcpy(&factor, &bits, sizeof factor);
      const F f = V::Set(factor);
      const int m = n - at < 32 ? static_cast<int>(n - at) : 32;
      for (int i = 0; i < m; i += V::kLanes) {
        const F x = V::Mul(f, V::Sub(V::LoadI8(code + i), eight));
        if (m - i >= V::kLanes) {
          V::Store(out + at + i, x);
        } else {
          V::StorePartial(out + at + i, x, m - i);
        }
      }
      if (half == 1) piece += kPieceBytes;
    }
  }
};

}  // namespace
}  // namespace duo
