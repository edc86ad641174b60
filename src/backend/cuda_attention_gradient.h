// The gradient of attention on a GPU, as products of whole blocks. The equations are in kernels/attention_backward.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/identify_ops.h"
#include "duo/result.h"
#include "kernels/cuda/matmul.h"
#include "kernels/mask.h"

namespace duo {

/// Device scratch for a call of n_tokens. It grows linearly with n_tokens for retrieval heads, and is bounded for
/// streaming heads.
size_t CudaAttentionGradientBytes(int64_t n_tokens, const LambdaMask& mask);

/// Queues the work on `stream`, which must also be the matmul's stream. scratch must have
/// CudaAttentionGradientBytes(a.n_tokens, a.mask) bytes.
Status RunCudaAttentionGradient(CudaStream stream, CudaMatmul* matmul, const AttentionGradient& a, float* scratch);

}  // namespace duo
