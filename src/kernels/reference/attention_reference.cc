// out_i = sum_j softmax_j(scale * q_i . k_j) v_j (arXiv:1706.03762 equation 1), the softmax shifted by its largest
// score.
#include "kernels/reference/attention_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/bf16.h"

namespace duo {
namespace {

double At(const void* rows, DType type, int64_t i) {
  return type == DType::kF32 ? ToFloat(static_cast<const float*>(rows)[i]) : ToFloat(static_cast<const bf16*>(rows)[i]);
}

double Score(const float* q, const void* k, DType type, int64_t row, int head_dim, float scale) {
  double dot = 0;
  for (int d = 0; d < head_dim; ++d) dot += double{q[d]} * At(k, type, row * head_dim + d);
  return dot * double{scale};
}

}  // namespace

void ReferenceDecodeAttention(const DecodeAttention& a) {
  for (int g = 0; g < a.group && a.n_rows > 0; ++g) {
    std::vector<double> scores(a.n_rows);
    for (int64_t r = 0; r < a.n_rows; ++r) {
      scores[r] = Score(a.q + g * a.head_dim, a.k, a.kv_type, r, a.head_dim, a.scale);
    }
    const double max = std::max(double{a.max[g]}, *std::max_element(scores.begin(), scores.end()));
    const double keep = std::exp(double{a.max[g]} - max);  // 0 for an empty state
    double sum = keep * double{a.sum[g]};
    for (double& s : scores) sum += s = std::exp(s - max);
    for (int d = 0; d < a.head_dim; ++d) {
      double acc = keep * double{a.acc[g * a.head_dim + d]};
      for (int64_t r = 0; r < a.n_rows; ++r) acc += scores[r] * At(a.v, a.kv_type, r * a.head_dim + d);
      a.acc[g * a.head_dim + d] = static_cast<float>(acc);
    }
    a.sum[g] = static_cast<float>(sum);
    a.max[g] = static_cast<float>(max);
  }
}

void ReferencePrefillAttention(const PrefillAttention& a) {
  for (int64_t t = 0; t < a.n_tokens; ++t) {
    for (int g = 0; g < a.group; ++g) {
      std::vector<double> acc(a.head_dim, 0.0);
      double max = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int64_t r = 0; r < a.n_rows; ++r) {
        const int64_t pos = r < a.n_sink_rows ? r : a.body_pos + (r - a.n_sink_rows);
        if (!Sees(a.mask, a.q_pos + t, pos)) continue;
        const double score = Score(a.q + t * a.q_stride + g * a.head_dim, a.k, a.kv_type, r, a.head_dim, a.scale);
        const double new_max = std::max(max, score), keep = std::exp(max - new_max), p = std::exp(score - new_max);
        sum = sum * keep + p;
        for (int d = 0; d < a.head_dim; ++d) acc[d] = acc[d] * keep + p * At(a.v, a.kv_type, r * a.head_dim + d);
        max = new_max;
      }
      float* out = a.out + t * a.out_stride + g * a.head_dim;
      for (int d = 0; d < a.head_dim; ++d) out[d] = static_cast<float>(sum > 0 ? acc[d] / sum : 0.0);
      if (a.lse != nullptr) a.lse[t * a.lse_stride + g] = static_cast<float>(max + std::log(sum));
    }
  }
}

}  // namespace duo
