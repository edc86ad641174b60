// The largest softmax weight that a set of keys receives from a set of queries, computed on one thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/dtype.h"

namespace duo {

struct DenseKernels;  // kernels/cpu/dense/dense_kernels.h

/// One KV head. The queries attend to more keys than these, so `lse` gives the logarithm of each softmax's denominator.
struct KeyWeights {
  const float* q = nullptr;  // token t, q head g of the group: q + t * q_stride + g * head_dim
  int64_t q_stride = 0;      // floats between tokens
  int64_t n_tokens = 0;
  int group = 1;
  int head_dim = 0;
  const void* k = nullptr;  // [n_keys, head_dim] key_type, contiguous; every query sees all of them
  DType key_type = DType::kBF16;
  int64_t n_keys = 0;
  float scale = 1.0f;
  const float* lse = nullptr;  // token t, q head g: lse + t * lse_stride + g
  int64_t lse_stride = 0;
  float* scratch = nullptr;  // KeyWeightsScratchFloats(head_dim)
};

/// max over queries i and keys j of exp(scale q_i . k_j - lse_i). Rounding above 1 is cut off. The result is NaN when
/// any of the weights is NaN. Works on blocks of queries and keys, so scratch does not depend on how many there are.
double LargestKeyWeight(const KeyWeights& p, const DenseKernels& kernels);
size_t KeyWeightsScratchFloats(int head_dim);

namespace reference {
double LargestKeyWeight(const KeyWeights& p);
}  // namespace reference

}  // namespace duo
