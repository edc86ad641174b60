#include "kernels/key_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/dense/block_gemm.h"
#include "kernels/cpu/dense/dense_kernels.h"

namespace duo {
namespace {

constexpr int64_t kRows = 256;  // queries per block
constexpr int64_t kKeys = 512;  // keys per block; the scores take 512 KiB

}  // namespace

size_t KeyWeightsScratchFloats(int head_dim) { return (kRows + kKeys) * head_dim + kRows * kKeys + kRows; }

double LargestKeyWeight(const KeyWeights& p, const DenseKernels& kernels) {
  const int64_t dim = p.head_dim, n_rows = p.n_tokens * p.group;
  float* const q = p.scratch;
  float* const k = q + kRows * dim;
  float* const scores = k + kKeys * dim;
  float* const best = scores + kRows * kKeys;
  const auto* keys = static_cast<const uint8_t*>(p.k);
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t begin = 0; begin < n_rows; begin += kRows) {
    const int64_t rows = std::min(kRows, n_rows - begin);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = begin + r;
      std::memcpy(q + r * dim, p.q + row / p.group * p.q_stride + row % p.group * dim, dim * sizeof(float));
      best[r] = -std::numeric_limits<float>::infinity();
    }
    for (int64_t first = 0; first < p.n_keys; first += kKeys) {
      const int64_t n = std::min(kKeys, p.n_keys - first);
      kernels.widen(keys + first * dim * DTypeBytes(p.key_type), p.key_type, k, n * dim);
      RunBlockGemm({q, dim, Transpose::kNo, k, dim, Transpose::kYes, rows, n, dim, p.scale, 0.0f, scores, n});
      for (int64_t r = 0; r < rows; ++r) {
        float most = best[r];
        for (int64_t j = 0; j < n; ++j) most = std::max(most, scores[r * n + j]);
        best[r] = most;
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = begin + r;
      const float weight = best[r] - p.lse[row / p.group * p.lse_stride + row % p.group];
      // A NaN score makes the query's softmax sum NaN too, and so its lse.
      if (std::isnan(weight)) return std::numeric_limits<double>::quiet_NaN();
      largest = std::max(largest, weight);
    }
  }
  return std::min(1.0, std::exp(double{largest}));
}

}  // namespace duo
