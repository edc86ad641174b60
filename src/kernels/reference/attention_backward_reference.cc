#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention_backward.h"

namespace duo::reference {
namespace {

double Dot(const float* a, const float* b, int n) {
  double dot = 0;
  for (int d = 0; d < n; ++d) dot += double{a[d]} * b[d];
  return dot;
}

}  // namespace

void AttentionBackwardRows(const AttentionBackward& a) {
  const int64_t dim = a.head_dim, n = a.n_tokens;
  std::vector<double> dk(n * dim, 0.0), dv(n * dim, 0.0);
  for (int64_t i = 0; i < a.n_tokens; ++i) {
    for (int g = 0; g < a.group; ++g) {
      const int64_t at = i * a.q_stride + g * a.head_dim;
      const float *q = a.q + at, *d_out = a.d_out + at;
      std::vector<double> p(n, 0.0), dp(n, 0.0);
      double max = -INFINITY, sum = 0, mean = 0;
      const auto seen = [&](int64_t j) { return Sees(a.mask, i, j); };
      const auto row = [&](int64_t j) { return j * a.kv_stride; };
      for (int64_t j = 0; j < n; ++j) {
        if (seen(j)) max = std::max(max, p[j] = a.scale * Dot(q, a.k + row(j), a.head_dim));
      }
      for (int64_t j = 0; j < n; ++j) sum += p[j] = seen(j) ? std::exp(p[j] - max) : 0.0;
      for (int64_t j = 0; j < n; ++j) mean += (p[j] /= sum) * (dp[j] = Dot(d_out, a.v + row(j), a.head_dim));
      std::vector<double> dq(dim, 0.0);
      for (int64_t j = 0; j < n; ++j) {
        const double ds = a.scale * p[j] * (dp[j] - mean);
        for (int64_t d = 0; d < dim; ++d) {
          dq[d] += ds * double{a.k[row(j) + d]};
          dk[j * dim + d] += ds * double{q[d]};
          dv[j * dim + d] += p[j] * double{d_out[d]};
        }
      }
      std::copy(dq.begin(), dq.end(), a.dq + at);
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    std::copy_n(dk.begin() + (j * dim), dim, a.dk + j * a.kv_stride);
    std::copy_n(dv.begin() + (j * dim), dim, a.dv + j * a.kv_stride);
  }
}

}  // namespace duo::reference
