// Between the functions of attention.h and the kernels that serve them.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/launch.h"

namespace duo {

constexpr int kMostPrefillHeads = 64;  // of a launch

struct PrefillHeads {
  CudaPrefillHead head[kMostPrefillHeads];
};

/// Any shape.
Status LaunchDecodeExact(CudaStream stream, const CudaAttentionShape& shape, dim3 grid, const DecodeHeads& heads,
                         const DecodeArgs& args);
Status LaunchPrefillExact(CudaStream stream, const CudaAttentionShape& shape, unsigned n_heads,
                          const PrefillHeads& heads);

/// On tensor cores, where ForTensorCores says so.
inline bool ForTensorCores(const CudaAttentionShape& shape) {
  return !shape.exact && shape.kv_type != KvType::kF32 && (shape.head_dim == 64 || shape.head_dim == 128);
}
Status LaunchDecodeTensor(CudaStream stream, const CudaAttentionShape& shape, dim3 grid, const DecodeHeads& heads,
                          const DecodeArgs& args);
Status LaunchPrefillTensor(CudaStream stream, const CudaAttentionShape& shape, unsigned n_heads,
                           const PrefillHeads& heads);

}  // namespace duo
