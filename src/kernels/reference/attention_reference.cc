// out_i = sum_j softmax_j(scale * q_i . k_j) v_j (arXiv:1706.03762 equation 1). The largest score is subtracted before
// the softmax.
#include "kernels/reference/attention_reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/bf16.h"

namespace duo {
namespace {

// The code at the place that docs/formats.md gives.
int CodeAt(const uint8_t* block, KvPart part, KvType type, size_t code_bytes, size_t lane, size_t d) {
  const bool keys = part == KvPart::kKeys;
  if (type == KvType::kInt8)
    return keys ? block[d / 4 * 64 + lane * 4 + d % 4] : block[lane / 4 * 4 * code_bytes + d * 4 + lane % 4];
  const uint8_t pair =
      keys ? block[d / 8 * 64 + lane * 4 + d % 4] : block[lane / 4 * 4 * code_bytes + d / 2 * 4 + lane % 4];
  const bool high = keys ? d % 8 >= 4 : d % 2 == 1;
  return high ? pair >> 4 : pair & 15;
}

}  // namespace

double KvElement(const void* rows, KvPart part, KvType type, int64_t row, int head_dim, int d) {
  const auto* p = static_cast<const uint8_t*>(rows);
  const int64_t row_bytes = KvRowBytes(type, head_dim);
  if (type == KvType::kF32) {
    float x;
    std::memcpy(&x, p + row * row_bytes + 4 * d, sizeof x);
    return x;
  }
  if (type == KvType::kBF16) {
    bf16 x;
    std::memcpy(&x, p + row * row_bytes + 2 * d, sizeof x);
    return ToFloat(x);
  }
  const uint8_t* block = p + row / 16 * 16 * row_bytes;
  const uint8_t* params = block + 16 * (row_bytes - 4) + row % 16 * 4;
  bf16 step, low;
  std::memcpy(&step, params, sizeof step);
  std::memcpy(&low, params + 2, sizeof low);
  return double{ToFloat(low)} + double{ToFloat(step)} * CodeAt(block, part, type, row_bytes - 4, row % 16, d);
}

namespace {

// Rows [first, first + n) as [n, head_dim].
std::vector<double> Elements(const void* rows, KvPart part, KvType type, int64_t first, int64_t n, int head_dim) {
  std::vector<double> x(n * head_dim);
  for (int64_t r = 0; r < n; ++r) {
    for (int d = 0; d < head_dim; ++d) x[r * head_dim + d] = KvElement(rows, part, type, first + r, head_dim, d);
  }
  return x;
}

double Score(const float* q, const double* k, int head_dim, float scale) {
  double dot = 0;
  for (int d = 0; d < head_dim; ++d) dot += double{q[d]} * k[d];
  return dot * double{scale};
}

}  // namespace

void ReferenceDecodeAttention(const DecodeAttention& a) {
  const int dim = a.shape.head_dim;
  const KvType type = a.shape.kv_type;
  const int64_t n_rows = a.rows.end - a.rows.begin;
  const std::vector<double> k = Elements(a.head.k, KvPart::kKeys, type, a.rows.begin, n_rows, dim);
  const std::vector<double> v = Elements(a.head.v, KvPart::kValues, type, a.rows.begin, n_rows, dim);
  for (int g = 0; g < a.shape.group && n_rows > 0; ++g) {
    float *max = a.states.max + g, *sum = a.states.sum + g, *acc = a.states.acc + g * dim;
    std::vector<double> scores(n_rows);
    for (int64_t r = 0; r < n_rows; ++r) scores[r] = Score(a.head.q + g * dim, k.data() + r * dim, dim, a.shape.scale);
    const double new_max = std::max(double{*max}, *std::max_element(scores.begin(), scores.end()));
    const double keep = std::exp(double{*max} - new_max);  // 0 for an empty state
    double new_sum = keep * double{*sum};
    for (double& s : scores) new_sum += s = std::exp(s - new_max);
    for (int d = 0; d < dim; ++d) {
      double new_acc = keep * double{acc[d]};
      for (int64_t r = 0; r < n_rows; ++r) new_acc += scores[r] * v[r * dim + d];
      acc[d] = static_cast<float>(new_acc);
    }
    *sum = new_sum;
    *max = new_max;
  }
}

void ReferencePrefillAttention(const PrefillAttention& a) {
  const AttentionShape& s = a.shape;
  const PrefillHead& h = a.head;
  const int dim = s.head_dim;
  const std::vector<double> k = Elements(h.k, KvPart::kKeys, s.kv_type, 0, h.n_rows, dim);
  const std::vector<double> v = Elements(h.v, KvPart::kValues, s.kv_type, 0, h.n_rows, dim);
  for (int64_t t = 0; t < s.n_tokens; ++t) {
    for (int g = 0; g < s.group; ++g) {
      std::vector<double> acc(dim, 0.0);
      double max = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int64_t r = 0; r < h.n_rows; ++r) {
        const int64_t pos = r < h.n_sink_rows ? r : h.body_pos + (r - h.n_sink_rows);
        if (!Sees(h.mask, s.q_pos + t, pos)) continue;
        const double score = Score(h.q + t * s.q_stride + g * dim, k.data() + r * dim, dim, s.scale);
        const double new_max = std::max(max, score), keep = std::exp(max - new_max), p = std::exp(score - new_max);
        sum = sum * keep + p;
        for (int d = 0; d < dim; ++d) acc[d] = acc[d] * keep + p * v[r * dim + d];
        max = new_max;
      }
      float* out = h.out + t * s.q_stride + g * dim;
      for (int d = 0; d < dim; ++d) out[d] = sum > 0 ? acc[d] / sum : 0.0;
      if (h.lse != nullptr) h.lse[t * s.lse_stride + g] = max + std::log(sum);
    }
  }
}

}  // namespace duo
