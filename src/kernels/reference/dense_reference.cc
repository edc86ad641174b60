#include "kernels/reference/dense_reference.h"

#include <cmath>

namespace duo::reference {

double Load(const void* data, DType type, int64_t i) {
  switch (type) {
    case DType::kF32: return static_cast<const float*>(data)[i];
    case DType::kBF16: return ToFloat(static_cast<const bf16*>(data)[i]);
    case DType::kF16: return ToFloat(static_cast<const f16*>(data)[i]);
    case DType::kI8: return static_cast<const int8_t*>(data)[i];
    case DType::kU8: break;
  }
  return NAN;
}

// y = W x + b
void GemvRows(const Gemv& p) {
  for (int64_t o = p.row_begin; o < p.row_end; ++o) {
    double sum = p.accumulate != 0 ? p.y[o] : 0.0;
    if (p.bias != nullptr) sum += p.bias[o];
    for (int64_t i = 0; i < p.n_in; ++i) {
      const double scale = p.w_scale == nullptr ? 1.0 : p.w_scale[o];
      sum += scale * Load(p.w, p.w_type, o * p.n_in + i) * p.x[i];
    }
    p.y[o] = sum;
  }
}

// Zhang and Sennrich, arXiv:1910.07467, equation 4, with eps added under the root.
void RmsNormRows(const RmsNorm& p) {
  for (int64_t r = 0; r < p.n_rows; ++r) {
    const float* x = p.x + r * p.x_stride;
    double squares = 0;
    for (int64_t i = 0; i < p.dim; ++i) squares += double{x[i]} * x[i];
    const double rms = std::sqrt(squares / p.dim + p.eps);
    for (int64_t i = 0; i < p.dim; ++i) {
      p.out[r * p.out_stride + i] = x[i] / rms * p.weight[i];
    }
  }
}

// Su et al., arXiv:2104.09864, equation 34, in the rotate-half layout.
void RopeTokens(const Rope& p) {
  const int half = p.head_dim / 2;
  for (int64_t t = 0; t < p.n_tokens; ++t) {
    for (int64_t g = 0; g < p.n_heads; ++g) {
      float* x = p.x + t * p.x_stride + g * p.head_dim;
      for (int d = 0; d < half; ++d) {
        const double a = x[d], b = x[d + half];
        const double c = p.cos[t * half + d], s = p.sin[t * half + d];
        x[d] = a * c - b * s;
        x[d + half] = b * c + a * s;
      }
    }
  }
}

// Shazeer, arXiv:2002.05202, equation 6: silu(g) = g / (1 + exp(-g)).
void SwiGluRange(const SwiGlu& p) {
  for (int64_t i = 0; i < p.n; ++i) {
    const double g = p.gate[i];
    p.out[i] = g / (1.0 + std::exp(-g)) * p.up[i];
  }
}

void GemmAll(const Gemm& p) {
  for (int64_t t = 0; t < p.n_tokens; ++t) {
    for (int64_t o = 0; o < p.n_out; ++o) {
      float& out = p.out[t * p.out_stride + o];
      double sum = p.accumulate ? out : 0.0;
      if (p.bias != nullptr) sum += p.bias[o];
      for (int64_t i = 0; i < p.n_in; ++i) {
        const int64_t w_at = p.w_layout == WeightLayout::kOutIn ? o * p.n_in + i : i * p.n_out + o;
        sum += Load(p.x, p.x_type, t * p.n_in + i) * Load(p.w, p.w_type, w_at);
      }
      out = sum;
    }
  }
}

}  // namespace duo::reference
