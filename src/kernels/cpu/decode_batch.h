// What the decode loops share: how heads are grouped, prefetching, and the running maximum of the online softmax.
#pragma once

#include "kernels/cpu/exp2_coefficients.h"
#include "kernels/cpu/inline.h"

namespace duo {
namespace {

// Heads that share one reading of memory; larger groups are read again for every 16 heads.
constexpr int kDecodeHeads = 16;
constexpr int kMaxHeadDim = 512;

// Asks for cache lines that a later round of the loop will read, a few at every step, into the second-level cache: more
// of them can be under way than into the first. Measured on two Zen 4 cores, rows of 128 dimensions at depth 128k, in
// GB/s of bf16, int8, int4: 20 / 17 / 14 into the first level half a round ahead, 27 / 25 / 18 into the second, and
// 37 / 29 / 23 a round or more ahead, in even steps, of the 46 that plain reading gives.
struct Prefetcher {
  const char* p;
  const char* end;
  template <class V>
  DUO_ALWAYS_INLINE void Lines(Prefetcher* f, int n) {
    for (int i = 0; i < n; ++i, f->p += f->p < f->end ? 64 : 0) V::Prefetch(f->p);  // no jump in the loops' middle
  }
};

// Heads in register blocks of up to 4: how many of n the next block has.
DUO_ALWAYS_INLINE int BlockHeads(int n) { return n >= 4 && n != 5 ? 4 : n == 5 || n == 3 ? 3 : n; }

// Takes the n scores (a multiple of kLanes) into *max; *keep = exp(old max - new max). Returns what to subtract from
// the scores. The largest score of a long cache is found early, so most blocks need no new maximum and nothing across
// lanes.
template <class V>
DUO_ALWAYS_INLINE typename V::F ShiftOf(const float* scores, int n, float* max, float* keep) {
  typename V::F block_max = V::Load(scores);
  for (int r = V::kLanes; r < n; r += V::kLanes) block_max = V::Max(block_max, V::Load(scores + r));
  *keep = 1.0f;
  if (V::AnyGreater(block_max, V::Set(*max))) {
    const float new_max = V::HorizontalMax(block_max);
    alignas(64) float factor[V::kLanes];
    V::Store(factor, V::Exp2(V::Set((*max - new_max) * kLog2E)));
    *max = new_max;
    *keep = factor[0];
  }
  // An empty state and scores of -inf would give -inf - -inf; any finite shift gives weights of 0.
  return V::Max(V::Set(*max), V::Set(-__FLT_MAX__));
}

}  // namespace
}  // namespace duo
