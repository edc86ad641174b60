// Gradients of element-wise operations, norms and softmax on a GPU (equations: kernels/dense_backward.h), and other
// operations for finding retrieval heads. Pointers are to device memory. Everything is queued on `stream`.
#pragma once

#include <cstdint>

#include "duo/result.h"
#include "kernels/cuda/stream.h"
#include "kernels/mask.h"
#include "kernels/seen_keys.h"

namespace duo {

/// Works in place: dy [n_rows, dim] becomes dx.
Status CudaRmsNormBackward(CudaStream stream, const float* x, const float* weight, float eps, int64_t n_rows,
                           int64_t dim, float* dy);
/// Works in place: gate becomes dgate, and up becomes dup.
Status CudaSwiGluBackward(CudaStream stream, const float* dh, float* gate, float* up, int64_t n);
/// x += y.
Status CudaAdd(CudaStream stream, float* x, const float* y, int64_t n);

/// Outputs of full and of streaming attention, each [n_tokens, n_kv_heads, width].
struct CudaHeadMix {
  const float* full;
  const float* streaming;
  const float* gates;  // [n_kv_heads]
  int64_t n_tokens, n_kv_heads, width;
};
/// out = gate * full + (1 - gate) * streaming; out may be mix.streaming.
Status CudaMix(CudaStream stream, const CudaHeadMix& mix, float* out);
/// d_out becomes the gradient of streaming. sums [CudaMixBlocks(n_tokens), n_kv_heads]: parts of the gates' gradients.
Status CudaMixBackward(CudaStream stream, const CudaHeadMix& mix, float* d_out, double* sums);
int64_t CudaMixBlocks(int64_t n_tokens);

/// Queries of one head, at positions first_pos + row, and the keys that any of them sees.
struct CudaSoftmaxBackward {
  float* scores;              // [n_rows, n_columns]; become weights
  float* dp;                  // [n_rows, n_columns]; become scale * ds
  int64_t n_rows, n_columns;  // n_columns: keys.count()
  int64_t first_pos;
  SeenKeys keys;
  LambdaMask mask;
  float scale, unused = 0;
};
Status RunCudaSoftmaxBackward(CudaStream stream, const CudaSoftmaxBackward& s);

/// largest[r] = max over columns of exp(scores - lse[r * lse_stride]), at most 1. It is NaN when any of the weights is
/// NaN. scores: [n_rows, n_columns].
Status CudaLargestWeights(CudaStream stream, const float* scores, int64_t n_rows, int64_t n_columns, const float* lse,
                          int64_t lse_stride, float* largest);

}  // namespace duo
