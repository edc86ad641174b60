// Gradients of masked attention on one thread.
//
// Forward (attention.h), for one query i of a KV head's group:
//   s_j = scale * q . k_j,  p = softmax over the keys that the mask shows,  o = sum_j p_j v_j.
// Backward, given do:
//   dv_j += p_j do,  dp_j = do . v_j,  ds_j = p_j (dp_j - sum_j p_j dp_j),  dq = scale * sum_j ds_j k_j,
//   dk_j += scale * ds_j q.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/mask.h"

namespace duo {

struct DenseKernels;  // kernels/cpu/dense/dense_kernels.h

/// One KV head over a whole sequence of n_tokens that starts at position 0. All arrays are floats, token-major like
/// activations.
struct AttentionBackward {
  const float* q = nullptr;  // token t, q head g of the group: q + t * q_stride + g * head_dim; RoPE applied
  const float* k = nullptr;  // token t: k + t * kv_stride, [head_dim]
  const float* v = nullptr;
  const float* d_out = nullptr;  // as q
  int64_t q_stride = 0;          // floats between tokens; kv_stride too
  int64_t kv_stride = 0;
  int64_t n_tokens = 0;  // >= 1
  int group = 1;
  int head_dim = 0;
  LambdaMask mask;
  float scale = 1.0f;
  float* dq = nullptr;  // as q; overwritten
  float* dk = nullptr;  // as k; overwritten
  float* dv = nullptr;
  float* scratch = nullptr;  // AttentionBackwardScratchFloats(...)
};

/// Recomputes the softmax rows for one block of queries at a time, from the keys that the block can see. So time and
/// scratch are at most linear in n_tokens for a streaming head.
void RunAttentionBackward(const AttentionBackward& a, const DenseKernels& kernels);
size_t AttentionBackwardScratchFloats(int64_t n_tokens, int group, int head_dim, const LambdaMask& mask);

namespace reference {
/// The equations above, key by key, in double. Needs no scratch.
void AttentionBackwardRows(const AttentionBackward& a);
}  // namespace reference

}  // namespace duo
