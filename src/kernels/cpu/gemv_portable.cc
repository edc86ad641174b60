#include "base/bf16.h"
#include "base/check.h"
#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/portable_load.h"

namespace duo::portable {
namespace {

// Partial sums per row. Enough that the compiler vectorises with any baseline and the chain of additions is no limit;
// fixed, so that a row's result never depends on which rows are computed with it.
constexpr int kLanes = 16;

template <typename T>
float Dot(const T* w, const float* x, int64_t n) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] += AsFloat(w[i + l]) * x[i + l];
  }
  for (int l = 0; i < n; ++i, ++l) lanes[l] += AsFloat(w[i]) * x[i];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

template <typename T>
void Rows(const Gemv& p) {
  const T* w = static_cast<const T*>(p.w);
  for (int64_t o = p.row_begin; o < p.row_end; ++o) {
    float sum = Dot(w + o * p.n_in, p.x, p.n_in);
    if (p.bias != nullptr) sum += p.bias[o];
    p.y[o] = p.accumulate != 0 ? p.y[o] + sum : sum;
  }
}

}  // namespace

void GemvRows(const Gemv& p) {
  switch (p.w_type) {
    case DType::kF32: return Rows<float>(p);
    case DType::kBF16: return Rows<bf16>(p);
    case DType::kF16: return Rows<f16>(p);
  }
  DUO_CHECK(false, "unknown weight type");
}

}  // namespace duo::portable
