// Internal interface between the functions of attention.h and their kernels.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/launch.h"

namespace duo {

constexpr int kMaxPrefillHeads = 64;  // per launch

struct PrefillHeads {
  static_assert(std::has_unique_object_representations_v<PrefillHead>,
                "the arguments of launches are compared as bytes");
  PrefillHead head[kMaxPrefillHeads];
};

__device__ __forceinline__ int64_t PositionOf(const PrefillHead& head, int64_t row) {
  return row < head.n_sink_rows ? row : head.body_pos + (row - head.n_sink_rows);
}

/// Parameters shared by the blocks of a prefill. Each block has group_step query heads of tokens_step tokens.
struct PrefillArgs {
  int group, head_dim, group_step, tokens_step;
  int64_t q_stride, lse_stride, q_pos, n_tokens;
  float scale, unused = 0;
};
inline PrefillArgs PrefillArgsOf(const AttentionShape& shape, int queries_of_block) {
  const int group_step = std::min(shape.group, queries_of_block);
  return {.group = shape.group,
          .head_dim = shape.head_dim,
          .group_step = group_step,
          .tokens_step = queries_of_block / group_step,
          .q_stride = shape.q_stride,
          .lse_stride = shape.lse_stride,
          .q_pos = shape.q_pos,
          .n_tokens = shape.n_tokens,
          .scale = shape.scale};
}
inline dim3 PrefillGrid(const PrefillArgs& a, unsigned n_heads) {
  return dim3(GridOf(a.n_tokens, a.tokens_step), n_heads, GridOf(a.group, a.group_step));
}

/// These kernels support any shape.
Status LaunchDecodeExact(CudaStream stream, const AttentionShape& shape, dim3 grid, const DecodeHeads& heads,
                         const DecodeArgs& args);
Status LaunchPrefillExact(CudaStream stream, const AttentionShape& shape, unsigned n_heads, const PrefillHeads& heads);

/// Whether the tensor-core kernels below serve this shape.
inline bool ForTensorCores(const AttentionShape& shape) {
  return shape.compute != ComputeType::kF32 && shape.kv_type != KvType::kF32 &&
         (shape.head_dim == 64 || shape.head_dim == 128);
}
Status LaunchDecodeTensor(CudaStream stream, const AttentionShape& shape, dim3 grid, const DecodeHeads& heads,
                          const DecodeArgs& args);
Status LaunchPrefillTensor(CudaStream stream, const AttentionShape& shape, unsigned n_heads, const PrefillHeads& heads);

}  // namespace duo
