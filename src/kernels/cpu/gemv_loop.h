// GEMV for a vector type V (vec_<isa>.h): weights are widened in registers and multiplied by the float x.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "duo/dtype.h"
#include "kernels/cpu/inline.h"
#include "kernels/cpu/widened.h"
#include "kernels/dense.h"

namespace duo {
namespace {

template <class V>
struct GemvLoop {
  using F = typename V::F;
  // Rows at once, so that x is loaded from cache once for two. They are not neighbours: the range is cut into halves
  // and each is read from its start to its end, so that memory sees two long streams and the prefetchers never stop.
  // Measured on one Zen 5 core, AVX-512, bf16, n_in 4096 / 14336, of 39.7 / 40.6 GB/s that plain reading gives: four
  // neighbouring rows 30.0 / 30.5, two streams without software prefetch 34.9 / 30.0, with it 36.4 / 36.4, four streams
  // 34.8 / 34.5. On two Zen 4 cores that read 46 GB/s, bf16 / int8 / int4: prefetch into the first-level cache 28 / 25
  // / 25, into the second 37 / 44 / 45; 2 KiB ahead 32 / 32 / 32, 8 KiB as 4; one stream 32 / 30 / 33.
  static constexpr int kStreams = 2;
  static constexpr int64_t kPrefetchBytes = 4096;
  // Accumulators per row hide the latency of the additions; those of all streams and the operands fit 16 registers. The
  // order of a row's sum is the same whether or not another row is computed with it, so results do not depend on how
  // rows are split.
  static constexpr int kChains = 4;
  static constexpr int64_t kStep = kChains * V::kLanes;

  template <typename T>
  DUO_ALWAYS_INLINE void PrefetchStep(const T* w) {
    const char* ahead = reinterpret_cast<const char*>(w) + kPrefetchBytes;
    for (int64_t b = 0; b < kStep * static_cast<int64_t>(sizeof(T)); b += 64) V::Prefetch(ahead + b);
  }

  // sums[s] = row s . x, row s at w + s * stride.
  template <typename T, int kN>
  static void DotRows(const T* w, int64_t stride, const float* x, int64_t n, float* sums) {
    using W = Widened<V>;
    F acc[kN][kChains];
    DUO_UNROLL for (int s = 0; s < kN; ++s) { DUO_UNROLL for (int c = 0; c < kChains; ++c) acc[s][c] = V::Zero(); }
    int64_t i = 0;
    for (; i + kStep <= n; i += kStep) {
      DUO_UNROLL for (int s = 0; s < kN; ++s) PrefetchStep(w + s * stride + i);
      DUO_UNROLL for (int c = 0; c < kChains; ++c) {
        const int64_t at = i + c * V::kLanes;
        const F xi = V::Load(x + at);
        DUO_UNROLL for (int s = 0; s < kN; ++s) acc[s][c] = V::Fma(W::Load(w + s * stride + at), xi, acc[s][c]);
      }
    }
    DUO_UNROLL for (int c = 0; c < kChains; ++c) {
      const int64_t at = i + c * V::kLanes;
      if (at >= n) break;
      const F xi = W::LoadUpTo(x + at, n - at);
      DUO_UNROLL for (int s = 0; s < kN; ++s) {
        acc[s][c] = V::Fma(W::LoadUpTo(w + s * stride + at, n - at), xi, acc[s][c]);
      }
    }
    DUO_UNROLL for (int s = 0; s < kN; ++s) {
      sums[s] = V::HorizontalSum(V::Add(V::Add(acc[s][0], acc[s][1]), V::Add(acc[s][2], acc[s][3])));
    }
  }

  static void Store(const Gemv& p, int64_t row, float sum) {
    if (p.w_scale != nullptr) sum *= p.w_scale[row];
    if (p.bias != nullptr) sum += p.bias[row];
    p.y[row] = p.accumulate != 0 ? p.y[row] + sum : sum;
  }

  template <typename T>
  static void Rows(const Gemv& p) {
    const T* w = static_cast<const T*>(p.w);
    const int64_t per_stream = (p.row_end - p.row_begin) / kStreams;
    float sums[kStreams];
    for (int64_t o = p.row_begin; o < p.row_begin + per_stream; ++o) {
      DotRows<T, kStreams>(w + o * p.n_in, per_stream * p.n_in, p.x, p.n_in, sums);
      for (int s = 0; s < kStreams; ++s) Store(p, o + s * per_stream, sums[s]);
    }
    for (int64_t o = p.row_begin + kStreams * per_stream; o < p.row_end; ++o) {
      DotRows<T, 1>(w + o * p.n_in, 0, p.x, p.n_in, sums);
      Store(p, o, sums[0]);
    }
  }

  static void Run(const Gemv& p) {
    switch (p.w_type) {
      case DType::kF32: return Rows<float>(p);
      case DType::kBF16: return Rows<bf16>(p);
      case DType::kF16: return Rows<f16>(p);
      case DType::kI8: return Rows<int8_t>(p);
      case DType::kU8: return;  // Gemv4
    }
  }
};

}  // namespace
}  // namespace duo
