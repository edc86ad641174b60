// FloatProducts multiplies cache rows as floats: the cache policy (cache_policy.h) of every vector type.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/cache_policy.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"

namespace duo {
namespace {

template <Vec V>
struct F32Rows {
  using F = typename V::F;
  static constexpr int kElementBytes = 4;

  DUO_ALWAYS_INLINE void LoadTwice(const char* p, F* a, F* b) {
    *a = V::Load(p);
    *b = V::Load(p + 4 * V::kLanes);
  }
  DUO_ALWAYS_INLINE void LoadTwicePartial(const char* p, int n, F* a, F* b) {
    *a = n < V::kLanes ? V::LoadPartial(p, n) : V::Load(p);
    *b = n < V::kLanes ? V::Zero() : V::LoadPartial(p + 4 * V::kLanes, n - V::kLanes);
  }
  DUO_ALWAYS_INLINE int TwiceIndex(int i) { return i; }
  DUO_ALWAYS_INLINE void Restore(F*, F*) {}

  static TileRows Floats(const char* rows, int64_t, int head_dim, int, float*) {
    return {rows, head_dim * sizeof(float)};
  }
};

template <Vec V>
struct Bf16Rows {
  using F = typename V::F;
  static constexpr int kElementBytes = 2;

  DUO_ALWAYS_INLINE void LoadTwice(const char* p, F* a, F* b) { V::LoadBf16Twice(p, a, b); }
  DUO_ALWAYS_INLINE void LoadTwicePartial(const char* p, int n, F* a, F* b) { V::LoadBf16TwicePartial(p, n, a, b); }
  DUO_ALWAYS_INLINE int TwiceIndex(int i) { return V::TwiceIndex(i); }
  DUO_ALWAYS_INLINE void Restore(F* a, F* b) { V::Restore(a, b); }

  static TileRows Floats(const char* rows, int64_t n, int head_dim, int padded_dim, float* tile) {
    for (int64_t r = 0; r < n; ++r) {
      const char* row = rows + r * head_dim * 2;
      float* out = tile + r * padded_dim;
      int d = 0;
      for (; d + V::kLanes <= head_dim; d += V::kLanes) V::Store(out + d, V::LoadBf16(row + 2 * d));
      if (d < head_dim) V::Store(out + d, V::LoadBf16Partial(row + 2 * d, head_dim - d));
    }
    return {reinterpret_cast<const char*>(tile), padded_dim * sizeof(float)};
  }
};

template <Vec V, FloatRows<V> Rows>
struct FloatProducts {
  using F = typename V::F;
  using Unit = F;
  struct Elements {
    F a, b;
  };
  using ValueUnits = Elements;
  static constexpr int kPerUnit = 1;
  using ScoreAcc = F;
  static constexpr int kElementBytes = Rows::kElementBytes;
  static constexpr int kKeyTile = 64;
  static constexpr int kKeyStep = 4;
  static constexpr int kDimsPerStep = 1;
  static constexpr bool kRoundsQueries = false;
  DUO_ALWAYS_INLINE size_t RowBytes(int head_dim) { return static_cast<size_t>(head_dim) * kElementBytes; }

  DUO_ALWAYS_INLINE F MulAdd(Unit a, Unit b, F c) { return V::Fma(a, b, c); }
  DUO_ALWAYS_INLINE ScoreAcc ZeroScore() { return V::Zero(); }
  DUO_ALWAYS_INLINE F ScoreMulAdd(Unit a, Unit b, F c) { return V::Fma(a, b, c); }
  DUO_ALWAYS_INLINE Unit BroadcastUnit(const void* p) {
    float x;
    __builtin_memcpy(&x, p, sizeof x);
    return V::Set(x);
  }
  DUO_ALWAYS_INLINE Unit LoadUnits(const void* p) { return V::Load(p); }
  DUO_ALWAYS_INLINE F Dot(Elements k, Elements q, F acc) { return V::Fma(k.a, q.a, V::Fma(k.b, q.b, acc)); }
  DUO_ALWAYS_INLINE Elements LoadQuery(const char* p) { return {V::Load(p), V::Load(p + 4 * V::kLanes)}; }
  static constexpr int kQueryBytes = 4;

  DUO_ALWAYS_INLINE F LoadQueryUnits(const float* q, int n) {
    return n >= V::kLanes ? V::Load(q) : V::LoadPartial(q, n);
  }
  DUO_ALWAYS_INLINE void StoreWeightRows(float* tile, int row, int pitch, int lane, F p0, F p1) {
    V::Store(tile + row * pitch + lane, p0);
    V::Store(tile + (row + 1) * pitch + lane, p1);
  }
  DUO_ALWAYS_INLINE void StoreWeights(float* w, int i, F p0, F p1) {
    V::Store(w + i, p0);
    V::Store(w + i + V::kLanes, p1);
  }
  DUO_ALWAYS_INLINE F Exp2(F x) { return V::Exp2(x); }

  DUO_ALWAYS_INLINE Elements LoadElements(const char* p) {
    Elements e;
    Rows::LoadTwice(p, &e.a, &e.b);
    return e;
  }
  DUO_ALWAYS_INLINE Elements LoadElementsPartial(const char* p, int n) {
    Elements e;
    Rows::LoadTwicePartial(p, n, &e.a, &e.b);
    return e;
  }
  DUO_ALWAYS_INLINE void PrepareQuery(const float* q, int n, char* out) {
    for (int i = 0; i < 2 * V::kLanes; ++i) {
      const float x = i < n ? q[i] : 0.0f;
      __builtin_memcpy(out + 4 * Rows::TwiceIndex(i), &x, sizeof x);
    }
  }
  DUO_ALWAYS_INLINE ValueUnits LoadValues(const char* row, const char*) { return LoadElements(row); }
  DUO_ALWAYS_INLINE ValueUnits LoadValuesPartial(const char* row, const char*, int n) {
    return LoadElementsPartial(row, n);
  }
  DUO_ALWAYS_INLINE void RestoreDims(F* a, F* b) { Rows::Restore(a, b); }

  static TileRows PrepareKeys(const char* base, int64_t row, int64_t n, int head_dim, int padded_dim, float* tile,
                              TileParams) {
    return Rows::Floats(base + static_cast<size_t>(row * head_dim) * kElementBytes, n, head_dim, padded_dim, tile);
  }
  static TileRows PrepareValues(const char* base, int64_t row, int64_t n, int head_dim, int padded_dim, float* tile) {
    return Rows::Floats(base + static_cast<size_t>(row * head_dim) * kElementBytes, n, head_dim, padded_dim, tile);
  }
};

template <Vec V>
using F32Cache = FloatProducts<V, F32Rows<V>>;
template <Vec V>
using WidenedBf16Cache = FloatProducts<V, Bf16Rows<V>>;

}  // namespace
}  // namespace duo
