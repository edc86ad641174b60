// GEMV for a vector type V (vec_<isa>.h). Weights are widened in registers and multiplied by the float x.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "duo/dtype.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"
#include "kernels/cpu/vec/widened.h"
#include "kernels/dense.h"

namespace duo {
namespace {

template <Vec V>
struct GemvLoop {
  using F = typename V::F;
  // Rows at once, so that x is loaded from cache once for two rows. The rows are not neighbours: the range is cut into
  // halves, and each half is read from its start to its end. So memory sees two long streams, and the prefetchers never
  // stop.
  //
  // One Zen 5 core, AVX-512, bf16, n_in 4096 / 14336, in GB/s; plain reading gives 39.7 / 40.6.
  //   Four neighbouring rows: 30.0 / 30.5.
  //   Two streams without software prefetch: 34.9 / 30.0.
  //   Two streams with software prefetch: 36.4 / 36.4.
  //   Four streams: 34.8 / 34.5.
  // Two Zen 4 cores, bf16 / int8 / int4, in GB/s; plain reading gives 46.
  //   Prefetch into the first-level cache: 28 / 25 / 25.
  //   Prefetch into the second-level cache: 37 / 44 / 45. 2 KiB ahead: 32 / 32 / 32. 8 KiB ahead: the same as 4 KiB.
  //   One stream: 32 / 30 / 33.
  static constexpr int kStreams = 2;
  static constexpr int64_t kPrefetchBytes = 4096;
  // Accumulators per row and token, which hide the latency of the additions. The accumulators of all streams and the
  // operands fit the registers. The order of a row's sum is always the same, so results depend neither on how rows are
  // split nor on the other tokens.
  static constexpr int kChains = V::kLanes == 4 ? 4 : 2;
  static constexpr int64_t kStep = kChains * V::kLanes;
  // Tokens that share a weight in registers. Further tokens find the rows in the first-level cache.
  static constexpr int kTokens = V::kLanes / 4;

  template <typename T>
  DUO_ALWAYS_INLINE void PrefetchStep(const T* w) {
    const char* ahead = reinterpret_cast<const char*>(w) + kPrefetchBytes;
    constexpr int64_t kBytes = kStep * sizeof(T);
    for (int64_t b = 0; b < kBytes; b += 64) V::Prefetch(ahead + b);
  }

  // sums[s][t] = row s . x[t], where row s is at w + s * stride.
  template <typename T, int kN, int kM>
  static void DotRows(const T* w, int64_t stride, const float* x, int64_t n, float (*sums)[kTokens]) {
    using W = Widened<V>;
    F acc[kN][kM][kChains];
    DUO_UNROLL for (int s = 0; s < kN; ++s) {
      DUO_UNROLL for (int t = 0; t < kM; ++t) { DUO_UNROLL for (int c = 0; c < kChains; ++c) acc[s][t][c] = V::Zero(); }
    }
    int64_t i = 0;
    for (; i + kStep <= n; i += kStep) {
      DUO_UNROLL for (int s = 0; s < kN; ++s) PrefetchStep(w + s * stride + i);
      DUO_UNROLL for (int c = 0; c < kChains; ++c) {
        const int64_t at = i + c * V::kLanes;
        F row[kN];
        DUO_UNROLL for (int s = 0; s < kN; ++s) row[s] = W::Load(w + s * stride + at);
        DUO_UNROLL for (int t = 0; t < kM; ++t) {
          const F xi = V::Load(x + t * n + at);
          DUO_UNROLL for (int s = 0; s < kN; ++s) acc[s][t][c] = V::Fma(row[s], xi, acc[s][t][c]);
        }
      }
    }
    DUO_UNROLL for (int c = 0; c < kChains; ++c) {
      const int64_t at = i + c * V::kLanes;
      if (at >= n) break;
      DUO_UNROLL for (int s = 0; s < kN; ++s) {
        const F row = W::LoadUpTo(w + s * stride + at, n - at);
        DUO_UNROLL for (int t = 0; t < kM; ++t) {
          acc[s][t][c] = V::Fma(row, W::LoadUpTo(x + t * n + at, n - at), acc[s][t][c]);
        }
      }
    }
    DUO_UNROLL for (int s = 0; s < kN; ++s) {
      DUO_UNROLL for (int t = 0; t < kM; ++t) {
        F sum = V::Add(acc[s][t][0], acc[s][t][1]);
        if constexpr (kChains == 4) sum = V::Add(sum, V::Add(acc[s][t][2], acc[s][t][3]));
        sums[s][t] = V::HorizontalSum(sum);
      }
    }
  }

  static void Store(const Gemv& p, int64_t token, int64_t row, float sum) {
    if (p.w_scale != nullptr) sum *= p.w_scale[row];
    if (p.bias != nullptr) sum += p.bias[row];
    float* y = p.y + token * p.y_stride + row;
    *y = p.accumulate != 0 ? *y + sum : sum;
  }

  // Rows o and, with kN == 2, o + per_stream, for all tokens.
  template <typename T, int kN>
  DUO_ALWAYS_INLINE void RowsForTokens(const Gemv& p, int64_t o, int64_t per_stream) {
    const T* w = static_cast<const T*>(p.w) + o * p.n_in;
    const int64_t stride = per_stream * p.n_in;
    float sums[kN][kTokens];
    for (int64_t t = 0; t < p.n_tokens;) {
      const float* x = p.x + t * p.n_in;
      const int64_t left = p.n_tokens - t;
      int now = 1;
      if (left >= kTokens) {
        now = kTokens;
        DotRows<T, kN, kTokens>(w, stride, x, p.n_in, sums);
      } else if (kTokens > 2 && left >= 2) {
        now = 2;
        DotRows<T, kN, kTokens / 2>(w, stride, x, p.n_in, sums);
      } else {
        DotRows<T, kN, 1>(w, stride, x, p.n_in, sums);
      }
      for (int s = 0; s < kN; ++s) {
        for (int m = 0; m < now; ++m) Store(p, t + m, o + s * per_stream, sums[s][m]);
      }
      t += now;
    }
  }

  template <typename T>
  static void Rows(const Gemv& p) {
    const int64_t per_stream = (p.row_end - p.row_begin) / kStreams;
    for (int64_t o = p.row_begin; o < p.row_begin + per_stream; ++o) RowsForTokens<T, kStreams>(p, o, per_stream);
    for (int64_t o = p.row_begin + kStreams * per_stream; o < p.row_end; ++o) RowsForTokens<T, 1>(p, o, 0);
  }

  static void Run(const Gemv& p) {
    switch (p.w_type) {
      case DType::kF32: return Rows<float>(p);
      case DType::kBF16: return Rows<bf16>(p);
      case DType::kF16: return Rows<f16>(p);
      case DType::kI8: return Rows<int8_t>(p);
      case DType::kU8: return;  // int4 weights use Gemv4
    }
  }
};

}  // namespace
}  // namespace duo
