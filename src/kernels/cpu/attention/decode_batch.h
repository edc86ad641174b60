// Shared by the decode loops: the grouping of heads, prefetching, and the running maximum of the online softmax.
#pragma once

#include "kernels/cpu/vec/exp2.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"

namespace duo {
namespace {

// Heads that share one pass over memory. Larger groups read the rows again for every 16 heads.
constexpr int kDecodeHeads = 16;
constexpr int kMaxHeadDim = 512;

// Prefetches cache lines that a later round of the loop will read, a few at every step. They go into the second-level
// cache, because more of these loads can be in flight than loads into the first level.
//
// Measured on two Zen 4 cores with rows of 128 dimensions at context length 128k, in GB/s for bf16 / int8 / int4.
//   Into the first level, half a round ahead: 20 / 17 / 14.
//   Into the second level, half a round ahead: 27 / 25 / 18.
//   Into the second level, a round or more ahead, in even steps: 37 / 29 / 23.
// Plain reading gives 46.
struct Prefetcher {
  const char* p;
  const char* end;
  template <Vec V>
  DUO_ALWAYS_INLINE void Lines(Prefetcher* f, int n) {
    for (int i = 0; i < n; ++i, f->p += f->p < f->end ? 64 : 0) V::Prefetch(f->p);  // no branch inside the loops
  }
};

// Heads are processed in register blocks of up to 4. Returns the size of the next block when n heads are left.
DUO_ALWAYS_INLINE int BlockHeads(int n) { return n >= 4 && n != 5 ? 4 : n == 5 || n == 3 ? 3 : n; }

// Updates *max with the n scores (n is a multiple of kLanes) and sets *keep = exp(old max - new max). Returns the
// number to subtract from the scores. The largest score of a long cache is found early. So most blocks need no new
// maximum and no operation across lanes.
template <Vec V>
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
  // An empty state with scores of -inf would compute -inf - -inf = NaN. Any finite shift gives weights of 0.
  return V::Max(V::Set(*max), V::Set(-__FLT_MAX__));
}

}  // namespace
}  // namespace duo
