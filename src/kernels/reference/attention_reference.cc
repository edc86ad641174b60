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
  const std::vector<double> k = Elements(a.k, KvPart::kKeys, a.kv_type, a.first_row, a.n_rows, a.head_dim);
  const std::vector<double> v = Elements(a.v, KvPart::kValues, a.kv_type, a.first_row, a.n_rows, a.head_dim);
  for (int g = 0; g < a.group && a.n_rows > 0; ++g) {
    std::vector<double> scores(a.n_rows);
    for (int64_t r = 0; r < a.n_rows; ++r) {
      scores[r] = Score(a.q + g * a.head_dim, k.data() + r * a.head_dim, a.head_dim, a.scale);
    }
    const double max = std::max(double{a.max[g]}, *std::max_element(scores.begin(), scores.end()));
    const double keep = std::exp(double{a.max[g]} - max);  // 0 for an empty state
    double sum = keep * double{a.sum[g]};
    for (double& s : scores) sum += s = std::exp(s - max);
    for (int d = 0; d < a.head_dim; ++d) {
      double acc = keep * double{a.acc[g * a.head_dim + d]};
      for (int64_t r = 0; r < a.n_rows; ++r) acc += scores[r] * v[r * a.head_dim + d];
      a.acc[g * a.head_dim + d] = acc;
    }
    a.sum[g] = sum;
    a.max[g] = max;
  }
}

void ReferencePrefillAttention(const PrefillAttention& a) {
  const std::vector<double> k = Elements(a.k, KvPart::kKeys, a.kv_type, 0, a.n_rows, a.head_dim);
  const std::vector<double> v = Elements(a.v, KvPart::kValues, a.kv_type, 0, a.n_rows, a.head_dim);
  for (int64_t t = 0; t < a.n_tokens; ++t) {
    for (int g = 0; g < a.group; ++g) {
      std::vector<double> acc(a.head_dim, 0.0);
      double max = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int64_t r = 0; r < a.n_rows; ++r) {
        const int64_t pos = r < a.n_sink_rows ? r : a.body_pos + (r - a.n_sink_rows);
        if (!Sees(a.mask, a.q_pos + t, pos)) continue;
        const double score =
            Score(a.q + t * a.q_stride + g * a.head_dim, k.data() + r * a.head_dim, a.head_dim, a.scale);
        const double new_max = std::max(max, score), keep = std::exp(max - new_max), p = std::exp(score - new_max);
        sum = sum * keep + p;
        for (int d = 0; d < a.head_dim; ++d) acc[d] = acc[d] * keep + p * v[r * a.head_dim + d];
        max = new_max;
      }
      float* out = a.out + t * a.out_stride + g * a.head_dim;
      for (int d = 0; d < a.head_dim; ++d) out[d] = sum > 0 ? acc[d] / sum : 0.0;
      if (a.lse != nullptr) a.lse[t * a.lse_stride + g] = max + std::log(sum);
    }
  }
}

}  // namespace duo
