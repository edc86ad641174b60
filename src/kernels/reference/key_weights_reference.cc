#include <algorithm>
#include <cmath>

#include "kernels/key_weights.h"
#include "kernels/reference/dense_reference.h"

namespace duo::reference {

double LargestKeyWeight(const KeyWeights& p) {
  double largest = 0;
  for (int64_t t = 0; t < p.n_tokens; ++t) {
    for (int g = 0; g < p.group; ++g) {
      const float* q = p.q + t * p.q_stride + g * p.head_dim;
      for (int64_t j = 0; j < p.n_keys; ++j) {
        double score = 0;
        for (int d = 0; d < p.head_dim; ++d) score += double{q[d]} * Load(p.k, p.key_type, j * p.head_dim + d);
        largest = std::max(largest, std::exp(double{p.scale} * score - double{p.lse[t * p.lse_stride + g]}));
      }
    }
  }
  return std::min(1.0, largest);
}

}  // namespace duo::reference
