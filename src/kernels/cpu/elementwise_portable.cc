#include <cmath>
#include <cstring>

#include "base/bf16.h"
#include "base/check.h"
#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/portable_load.h"

namespace duo::portable {

void RmsNormRows(const RmsNorm& p) {
  for (int64_t r = 0; r < p.n_rows; ++r) {
    const float* x = p.x + r * p.x_stride;
    float* out = p.out + r * p.out_stride;
    double squares = 0;
    for (int64_t i = 0; i < p.dim; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const auto scale =
        static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(p.dim) + static_cast<double>(p.eps)));
    for (int64_t i = 0; i < p.dim; ++i) out[i] = x[i] * scale * p.weight[i];
  }
}

void RopeTokens(const Rope& p) {
  const int half = p.head_dim / 2;
  for (int64_t t = 0; t < p.n_tokens; ++t) {
    const float* c = p.cos + t * half;
    const float* s = p.sin + t * half;
    for (int g = 0; g < p.n_heads; ++g) {
      float* low = p.x + t * p.x_stride + static_cast<int64_t>(g) * p.head_dim;
      float* high = low + half;
      for (int d = 0; d < half; ++d) {
        const float a = low[d], b = high[d];
        low[d] = a * c[d] - b * s[d];
        high[d] = b * c[d] + a * s[d];
      }
    }
  }
}

void SwiGluRange(const SwiGlu& p) {
  for (int64_t i = 0; i < p.n; ++i) p.out[i] = p.gate[i] / (1.0f + std::exp(-p.gate[i])) * p.up[i];
}

void AddRange(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void F32ToBf16(const float* x, bf16* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = ToBf16(x[i]);
}

void RoundToBf16(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = ToFloat(ToBf16(x[i]));
}

namespace {
template <typename T>
void WidenAs(const void* x, float* out, int64_t n) {
  const T* from = static_cast<const T*>(x);
  for (int64_t i = 0; i < n; ++i) out[i] = AsFloat(from[i]);
}
}  // namespace

void Widen(const void* x, DType type, float* out, int64_t n) {
  switch (type) {
    case DType::kF32: return WidenAs<float>(x, out, n);
    case DType::kBF16: return WidenAs<bf16>(x, out, n);
    case DType::kF16: return WidenAs<f16>(x, out, n);
  }
  DUO_CHECK(false, "unknown element type");
}

double ReadSum(const void* x, size_t bytes) {
  const auto* from = static_cast<const unsigned char*>(x);
  uint64_t lanes[8] = {};
  size_t i = 0;
  for (; i + sizeof lanes <= bytes; i += sizeof lanes) {
    uint64_t words[8];
    std::memcpy(words, from + i, sizeof words);
    for (int l = 0; l < 8; ++l) lanes[l] += words[l];
  }
  for (; i < bytes; ++i) lanes[0] += from[i];
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) sum += lane;
  return static_cast<double>(sum);
}

}  // namespace duo::portable
