// Norms, RoPE, SwiGLU, conversions and reading memory, for a vector type V (vec_<isa>.h). Memory outside the given
// ranges is not touched.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "duo/dtype.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"
#include "kernels/cpu/vec/widened.h"
#include "kernels/dense.h"
#include "kernels/dense_backward.h"

namespace duo {
namespace {

template <Vec V>
struct ElementwiseLoop {
  using F = typename V::F;
  using Bits = typename V::Bits;
  using Words = typename V::Words;
  static constexpr int kLanes = V::kLanes;

  // One vector of a range: all lanes, or the last n < kLanes elements.
  template <bool kWhole>
  struct Block {
    int n;

    template <typename T>
    F Load(const T* p) const {
      return kWhole ? Widened<V>::Load(p) : Widened<V>::LoadPartial(p, n);
    }
    void Store(float* p, F x) const {
      if constexpr (kWhole) {
        V::Store(p, x);
      } else {
        V::StorePartial(p, x, n);
      }
    }
    // The upper half of each lane.
    void Store(bf16* p, Bits x) const {
      if constexpr (kWhole) {
        V::StoreLow16(p, x >> 16);
      } else {
        bf16 all[kLanes];
        V::StoreLow16(all, x >> 16);
        for (int i = 0; i < n; ++i) p[i] = all[i];
      }
    }
  };

  // Calls body(i, block) for each block of [0, n), where i is the block's first element.
  template <class Body>
  DUO_ALWAYS_INLINE void ForBlocks(int64_t n, const Body& body) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) body(i, Block<true>{kLanes});
    if (i < n) body(i, Block<false>{static_cast<int>(n - i)});
  }

  // exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2. There the Taylor polynomial of degree 7 has an error of
  // at most r^8 / 8! = 5.2e-9, which is below a tenth of an ulp. The total error is under 2 ulp. Beyond the float range
  // the result is 0 or infinity. Subtracts n ln 2 in three parts. The first two products with n are exact, so r is
  // accurate even without a fused multiply-add.
  DUO_ALWAYS_INLINE F Exp(F x) {
    x = V::Min(V::Set(89.0f), V::Max(V::Set(-104.0f), x));  // NaN passes
    const F n = V::Round(V::Mul(x, V::Set(0x1.715476p+0f)));
    F r = V::Fma(n, V::Set(-0x1.62e4p-1f), x);
    r = V::Fma(n, V::Set(-0x1.8p-20f), r);
    r = V::Fma(n, V::Set(0x1.05c610p-29f), r);
    F p = V::Set(1.0f / 5040);
    p = V::Fma(p, r, V::Set(1.0f / 720));
    p = V::Fma(p, r, V::Set(1.0f / 120));
    p = V::Fma(p, r, V::Set(1.0f / 24));
    p = V::Fma(p, r, V::Set(1.0f / 6));
    p = V::Fma(p, r, V::Set(0.5f));
    p = V::Fma(p, r, V::Set(1.0f));
    p = V::Fma(p, r, V::Set(1.0f));
    return V::Scale(p, n);
  }

  // The bits of the nearest bf16 (ties to even) in the upper half of each lane, zeros in the lower half. NaN stays NaN.
  // AVX512_BF16's own conversion is not used, because it flushes subnormal numbers to zero.
  DUO_ALWAYS_INLINE Bits RoundedBits(F x) {
    const Bits u = (Bits)x;
    const Bits rounded = u + 0x7fff + ((u >> 16) & 1), quiet = u | 0x400000;
    return (x == x ? rounded : quiet) & 0xffff0000;
  }

  static float SumOfSquares(const float* x, int64_t n) {
    constexpr int kChains = kLanes < 8 ? 32 / kLanes : 4;  // at least 32 partial sums, as docs/numerics.md assumes
    constexpr int64_t kStep = kChains * kLanes;
    F acc[kChains];
    DUO_UNROLL for (int c = 0; c < kChains; ++c) acc[c] = V::Zero();
    for (int64_t i = 0; i < n; i += kStep) {
      DUO_UNROLL for (int c = 0; c < kChains; ++c) {
        const int64_t at = i + c * kLanes;
        if (at >= n) break;
        const F v = Widened<V>::LoadUpTo(x + at, n - at);
        acc[c] = V::Fma(v, v, acc[c]);
      }
    }
    DUO_UNROLL for (int apart = 1; apart < kChains; apart *= 2) {
      DUO_UNROLL for (int c = 0; c < kChains; c += 2 * apart) acc[c] = V::Add(acc[c], acc[c + apart]);
    }
    return V::HorizontalSum(acc[0]);
  }

  static void RmsNormRows(const RmsNorm& p) {
    for (int64_t r = 0; r < p.n_rows; ++r) {
      const float* x = p.x + r * p.x_stride;
      float* out = p.out + r * p.out_stride;
      const float mean = SumOfSquares(x, p.dim) / static_cast<float>(p.dim);
      const F scale = V::Set(1.0f / __builtin_sqrtf(mean + p.eps));
      ForBlocks(p.dim, [&](int64_t i, auto block) {
        block.Store(out + i, V::Mul(V::Mul(block.Load(x + i), scale), block.Load(p.weight + i)));
      });
    }
  }

  static void RopeTokens(const Rope& p) {
    const int64_t half = p.head_dim / 2;
    for (int64_t t = 0; t < p.n_tokens; ++t) {
      const float* cos = p.cos + t * half;
      const float* sin = p.sin + t * half;
      for (int64_t g = 0; g < p.n_heads; ++g) {
        float* low = p.x + t * p.x_stride + g * p.head_dim;
        float* high = low + half;
        ForBlocks(half, [&](int64_t d, auto block) {
          const F a = block.Load(low + d), b = block.Load(high + d);
          const F c = block.Load(cos + d), s = block.Load(sin + d);
          block.Store(low + d, V::MulSub(a, c, V::Mul(b, s)));
          block.Store(high + d, V::Fma(b, c, V::Mul(a, s)));
        });
      }
    }
  }

  static void SwiGluRange(const SwiGlu& p) {
    ForBlocks(p.n, [&](int64_t i, auto block) {
      const F gate = block.Load(p.gate + i), up = block.Load(p.up + i);
      const F silu = V::Div(gate, V::Add(V::Set(1.0f), Exp(V::Sub(V::Zero(), gate))));
      block.Store(p.out + i, V::Mul(silu, up));
    });
  }

  static void SwiGluBackwardRange(const SwiGluBackward& p) {
    const F one = V::Set(1.0f);
    ForBlocks(p.n, [&](int64_t i, auto block) {
      const F g = block.Load(p.gate + i), dh = block.Load(p.dh + i), up = block.Load(p.up + i);
      const F s = V::Div(one, V::Add(one, Exp(V::Sub(V::Zero(), g))));
      const F slope = V::Mul(s, V::Fma(g, V::Sub(one, s), one));
      block.Store(p.gate + i, V::Mul(V::Mul(dh, up), slope));
      block.Store(p.up + i, V::Mul(dh, V::Mul(g, s)));
    });
  }

  static void SoftmaxBackwardRow(const SoftmaxBackward& p) {
    float max = -__builtin_inff();
    const int64_t whole = p.n / kLanes * kLanes;
    if (whole > 0) {
      F most = V::Load(p.scores);
      for (int64_t i = kLanes; i < whole; i += kLanes) most = V::Max(most, V::Load(p.scores + i));
      max = V::HorizontalMax(most);
    }
    for (int64_t i = whole; i < p.n; ++i) max = p.scores[i] > max ? p.scores[i] : max;
    F sums = V::Zero(), products = V::Zero();
    ForBlocks(p.n, [&](int64_t i, auto block) {
      block.Store(p.scores + i, Exp(V::Sub(block.Load(p.scores + i), V::Set(max))));
      const F weight = block.Load(p.scores + i);  // zeros after the end
      sums = V::Add(sums, weight);
      products = V::Fma(weight, block.Load(p.dp + i), products);
    });
    const float inverse = 1.0f / V::HorizontalSum(sums);
    const F scale = V::Set(p.scale), share = V::Set(inverse), mean = V::Set(V::HorizontalSum(products) * inverse);
    ForBlocks(p.n, [&](int64_t i, auto block) {
      const F weight = V::Mul(block.Load(p.scores + i), share);
      block.Store(p.scores + i, weight);
      block.Store(p.dp + i, V::Mul(V::Mul(scale, weight), V::Sub(block.Load(p.dp + i), mean)));
    });
  }

  static void AddRange(float* x, const float* y, int64_t n) {
    ForBlocks(n, [&](int64_t i, auto block) { block.Store(x + i, V::Add(block.Load(x + i), block.Load(y + i))); });
  }

  static void F32ToBf16(const float* x, bf16* out, int64_t n) {
    ForBlocks(n, [&](int64_t i, auto block) { block.Store(out + i, RoundedBits(block.Load(x + i))); });
  }

  static void RoundToBf16(const float* x, float* out, int64_t n) {
    ForBlocks(n, [&](int64_t i, auto block) { block.Store(out + i, (F)RoundedBits(block.Load(x + i))); });
  }

  template <typename T>
  static void WidenAs(const void* x, float* out, int64_t n) {
    const T* from = static_cast<const T*>(x);
    ForBlocks(n, [&](int64_t i, auto block) { block.Store(out + i, block.Load(from + i)); });
  }

  static void Widen(const void* x, DType type, float* out, int64_t n) {
    switch (type) {
      case DType::kF32: return WidenAs<float>(x, out, n);
      case DType::kBF16: return WidenAs<bf16>(x, out, n);
      case DType::kF16: return WidenAs<f16>(x, out, n);
      case DType::kI8: return WidenAs<int8_t>(x, out, n);
      case DType::kU8: return;  // int4 codes have no value of their own
    }
  }

  // Reads two distant streams with a software prefetch into the second-level cache. This gives 48 GB/s, as the median
  // of 25 turns on two Zen 4 cores over a block of 1 GiB in tasks of 2 MiB. One plain stream gives 42, four give 46,
  // eight 39, and sixteen with prefetch 24. The sum of the words may wrap around, because it only proves that each was
  // read.
  static double ReadSum(const void* x, size_t bytes) {
    constexpr size_t kStreams = 2, kChains = 2, kStep = kChains * sizeof(Words), kAhead = 4096;
    const char* from = static_cast<const char*>(x);
    const size_t part = bytes / kStreams / kStep * kStep;
    Words acc[kStreams][kChains] = {};
    for (size_t i = 0; i < part; i += kStep) {
      DUO_UNROLL for (size_t s = 0; s < kStreams; ++s) {
        const char* at = from + s * part + i;
        DUO_UNROLL for (size_t b = 0; b < kStep; b += 64) V::Prefetch(at + b + kAhead);
        DUO_UNROLL for (size_t c = 0; c < kChains; ++c) {
          Words words;
          __builtin_memcpy(&words, at + c * sizeof words, sizeof words);
          acc[s][c] += words;
        }
      }
    }
    uint64_t sum = 0;
    for (const auto& stream : acc) {
      const Words both = stream[0] + stream[1];
      for (size_t lane = 0; lane < sizeof(Words) / 8; ++lane) sum += both[lane];
    }
    for (size_t i = kStreams * part; i < bytes; ++i) sum += static_cast<unsigned char>(from[i]);
    return static_cast<double>(sum);
  }
};

}  // namespace
}  // namespace duo
