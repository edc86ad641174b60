#include "kernels/dense_backward.h"

#include <cmath>

namespace duo {

void RunRmsNormBackward(const RmsNormBackward& p) {
  for (int64_t row = 0; row < p.n_rows; ++row) {
    const float* x = p.x + row * p.dim;
    const float* dy = p.dy + row * p.dim;
    float* dx = p.dx + row * p.dim;
    double squares = 0, product = 0;
    for (int64_t i = 0; i < p.dim; ++i) {
      squares += double{x[i]} * x[i];
      product += double{p.weight[i]} * dy[i] * x[i];
    }
    const double n = static_cast<double>(p.dim), r = 1.0 / std::sqrt(squares / n + double{p.eps});
    const float scale = r, back = r * r * r / n * product;
    for (int64_t i = 0; i < p.dim; ++i) dx[i] = scale * p.weight[i] * dy[i] - back * x[i];
  }
}

void MixByGate(const GateRows& rows, const float* full, const float* streaming, float* out) {
  for (int64_t t = 0; t < rows.n_tokens; ++t) {
    for (int64_t i = t * rows.stride; i < t * rows.stride + rows.width; ++i) {
      out[i] = rows.gate * full[i] + (1.0f - rows.gate) * streaming[i];
    }
  }
}

double MixByGateBackward(const GateRows& rows, const float* full, const float* streaming, float* d_out) {
  double gradient = 0;
  for (int64_t t = 0; t < rows.n_tokens; ++t) {
    float of_token = 0;
    for (int64_t i = t * rows.stride; i < t * rows.stride + rows.width; ++i) {
      of_token += d_out[i] * (full[i] - streaming[i]);
      d_out[i] *= 1.0f - rows.gate;
    }
    gradient += double{of_token};
  }
  return gradient;
}

}  // namespace duo
