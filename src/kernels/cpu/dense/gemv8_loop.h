// Products of a few tokens with int8 weights, for a vector type V with products of pairs. Weights are multiplied as
// they are. Inputs become integers of 14 bits and a sign, with one step per group. A group's sums are exact. Per weight
// and token this takes half the instructions of the float products in gemv_loop.h. Those are fast enough for one token,
// which waits for memory anyway.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention/code_products.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"
#include "kernels/cpu/vec/widened.h"
#include "kernels/dense.h"

namespace duo {
namespace {

template <PairVec V>
struct Gemv8Loop {
  using F = typename V::F;
  using Bits = typename V::Bits;
  // Sums of 256 products of 128 x 16383 in kLanes lanes stay below 2^30.
  struct Piece {
    int16_t x[kGemv8Group];  // zeros after n_in
    float step;
    float unused[15];
  };
  static_assert(sizeof(Piece) == Gemv8PreparedBytes(kGemv8Group));
  static constexpr int kStreams = 2;  // as in gemv_loop.h
  static constexpr int64_t kPrefetchBytes = 4096;
  // Tokens at once. The sums of the rows and tokens stay in registers. Eight tokens at once gain nothing on AVX-512.
  // With two at once, AVX2 takes 1.5 times as long for four tokens.
  static constexpr int kTokens = 4;
  static constexpr int kVector = 2 * V::kLanes;  // numbers of 16 bits

  static void Prepare(const float* x, int64_t n_in, void* out) {
    auto* piece = static_cast<Piece*>(out);
    for (int64_t at = 0; at < n_in; at += kGemv8Group, ++piece) {
      const int64_t left = n_in - at < kGemv8Group ? n_in - at : kGemv8Group;
      const Grid<V> grid = Grid<V>::Of(x + at, left, 16383.0f);
      piece->step = grid.step;
      for (int64_t i = 0; i < kGemv8Group; i += V::kLanes) {
        const F v = grid.some ? Widened<V>::LoadUpTo(x + at + i, left - i) : V::Zero();
        V::StoreLow16(piece->x + i, V::ToInts(V::Mul(v, grid.inverse)) & 0xffffu);
      }
    }
  }

  DUO_ALWAYS_INLINE Bits LoadPairs(const int16_t* p) {
    Bits x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  // The last n < kVector weights, followed by zeros.
  DUO_ALWAYS_INLINE Bits LoadLast(const int8_t* p, int64_t n) {
    int8_t whole[kVector] = {};
    __builtin_memcpy(whole, p, n);
    return V::WidenI8Pairs(whole);
  }
  template <int kN, int kM>
  DUO_ALWAYS_INLINE void MulAdd(const Bits* row, const Piece* const* x, int64_t i, Bits (*sum)[kM]) {
    DUO_UNROLL for (int t = 0; t < kM; ++t) {
      const Bits pairs = LoadPairs(x[t]->x + i);
      DUO_UNROLL for (int s = 0; s < kN; ++s) sum[s][t] = V::AddPairs(sum[s][t], row[s], pairs);
    }
  }

  // Adds the products with the n <= kGemv8Group inputs of one group.
  template <int kN, int kM>
  DUO_ALWAYS_INLINE void Group(const int8_t* w, int64_t stride, const Piece* const* x, int64_t n, F (*total)[kM]) {
    Bits sum[kN][kM] = {};
    Bits row[kN];
    int64_t i = 0;
    for (; i + kVector <= n; i += kVector) {
      DUO_UNROLL for (int s = 0; s < kN; ++s) {
        const int8_t* from = w + s * stride + i;
        V::Prefetch(reinterpret_cast<const char*>(from) + kPrefetchBytes);
        row[s] = V::WidenI8Pairs(from);
      }
      MulAdd<kN, kM>(row, x, i, sum);
    }
    if (i < n) {
      DUO_UNROLL for (int s = 0; s < kN; ++s) row[s] = LoadLast(w + s * stride + i, n - i);
      MulAdd<kN, kM>(row, x, i, sum);
    }
    DUO_UNROLL for (int t = 0; t < kM; ++t) {
      const F step = V::Set(x[t]->step);
      DUO_UNROLL for (int s = 0; s < kN; ++s) total[s][t] = V::Fma(V::FromInts(sum[s][t]), step, total[s][t]);
    }
  }

  // Rows `row` and, with kN == 2, row + per_stream, for kM tokens from `token` on.
  template <int kN, int kM>
  static void Dot(const Gemv8& p, int64_t row, int64_t per_stream, int64_t token) {
    const int8_t* w = p.w + row * p.n_in;
    const int64_t stride = per_stream * p.n_in;
    const int64_t n_pieces = (p.n_in + kGemv8Group - 1) / kGemv8Group;
    const Piece* x[kM];
    F total[kN][kM];
    DUO_UNROLL for (int t = 0; t < kM; ++t) x[t] = static_cast<const Piece*>(p.x) + (token + t) * n_pieces;
    DUO_UNROLL for (int s = 0; s < kN; ++s) { DUO_UNROLL for (int t = 0; t < kM; ++t) total[s][t] = V::Zero(); }
    for (int64_t i = 0; i < p.n_in; i += kGemv8Group) {
      Group<kN, kM>(w + i, stride, x, p.n_in - i < kGemv8Group ? p.n_in - i : kGemv8Group, total);
      DUO_UNROLL for (int t = 0; t < kM; ++t)++ x[t];
    }
    for (int s = 0; s < kN; ++s) {
      const int64_t o = row + s * per_stream;
      for (int t = 0; t < kM; ++t) {
        float sum = V::HorizontalSum(total[s][t]) * p.w_scale[o];
        if (p.bias != nullptr) sum += p.bias[o];
        float* y = p.y + (token + t) * p.y_stride + o;
        *y = p.accumulate != 0 ? *y + sum : sum;
      }
    }
  }

  template <int kN>
  DUO_ALWAYS_INLINE void Tokens(const Gemv8& p, int64_t row, int64_t per_stream) {
    int64_t t = 0;
    for (; t + kTokens <= p.n_tokens; t += kTokens) Dot<kN, kTokens>(p, row, per_stream, t);
    for (; t + 2 <= p.n_tokens; t += 2) Dot<kN, 2>(p, row, per_stream, t);
    for (; t < p.n_tokens; ++t) Dot<kN, 1>(p, row, per_stream, t);
  }

  static void Run(const Gemv8& p) {
    const int64_t per_stream = (p.row_end - p.row_begin) / kStreams;
    for (int64_t o = p.row_begin; o < p.row_begin + per_stream; ++o) Tokens<kStreams>(p, o, per_stream);
    for (int64_t o = p.row_begin + kStreams * per_stream; o < p.row_end; ++o) Tokens<1>(p, o, 0);
  }
};

}  // namespace
}  // namespace duo
