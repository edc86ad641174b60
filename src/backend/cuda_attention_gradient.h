// The gradient of attention on a GPU (equations: kernels/attention_backward.h), as products of whole blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/identify_ops.h"
#include "duo/result.h"
#include "kernels/cuda/matmul.h"
#include "kernels/mask.h"

namespace duo {

/// Scratch on the device for a call of n_tokens: linear in n_tokens for a retrieval head, bounded for a streaming one.
size_t CudaAttentionGradientBytes(int64_t n_tokens, const LambdaMask& mask);

/// Queued on `stream`, which is also the matmul's. scratch: CudaAttentionGradientBytes(a.n_tokens, a.mask).
Status RunCudaAttentionGradient(CudaStream stream, CudaMatmul* matmul, const AttentionGradient& a, float* scratch);

}  // namespace duo
