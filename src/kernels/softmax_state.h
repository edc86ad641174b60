// The online softmax state (max, sum, acc) of one query, and how two such states merge (arXiv:1805.02867 section 3.1;
// flash-decoding). Uses std::exp, so instruction-set specific files must not include it.
#pragma once

#include <cmath>

namespace duo {

constexpr float kNegInf = -__builtin_inff();

/// Folds the state `b` (max, sum, acc[head_dim]) of another set of keys into `a`. Either may be empty (max == -inf).
static inline void MergeSoftmaxState(float* max_a, float* sum_a, float* acc_a, float max_b, float sum_b,
                                     const float* acc_b, int head_dim) {
  if (max_b == kNegInf && sum_b == 0.0f) return;  // a NaN sum without a maximum comes from a NaN key and is kept
  const float max = *max_a > max_b ? *max_a : max_b;
  const float scale_a = *max_a == kNegInf ? 0.0f : std::exp(*max_a - max);
  const float scale_b = std::exp(max_b - max);
  for (int d = 0; d < head_dim; ++d) acc_a[d] = acc_a[d] * scale_a + acc_b[d] * scale_b;
  *sum_a = *sum_a * scale_a + sum_b * scale_b;
  *max_a = max;
}

/// out = acc / sum. A query always sees its own key, so sum > 0.
static inline void FinishSoftmax(float sum, const float* acc, float* out, int head_dim) {
  const float inverse = 1.0f / sum;
  for (int d = 0; d < head_dim; ++d) out[d] = acc[d] * inverse;
}

}  // namespace duo
