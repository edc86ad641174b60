// Decode attention on tensor cores. The warps of a block share the tiles of a piece and then merge their states.
#include <algorithm>

#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/decode_warp.cuh"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

constexpr int kThreads = kDecodeWarps * kWarp;

template <KvType kType, int kDim>
constexpr size_t SharedBytes() {
  return std::max({DecodeStageBytes<kType, kDim>(), DecodeStateBytes(kDim), kMergeFloats * sizeof(float)});
}

template <KvType kType, int kDim, int kHalves>
__global__ void __launch_bounds__(kThreads, 2)
    DecodeKernel(const __grid_constant__ DecodeHeads heads, const __grid_constant__ DecodeArgs a) {
  DUO_SHARED_MEMORY(shared);
  const DecodeBlock block = ThisDecodeBlock(heads, a);
  if (block.piece >= block.n_pieces) return;
  DecodeWarp<kType, kDim, kHalves> warp(shared, block.head, RowsOfPiece(block.head, block.piece, a.rows_per_piece));
  warp.FetchFirst();
  warp.LoadQueries(block.head.q + block.first_query * kDim, block.n_queries, a.scale * kLog2E);
  warp.FoldTiles();
  WaitForCopies<0>();
  __syncthreads();
  auto* states = reinterpret_cast<float*>(shared);
  warp.PutStates(states);
  __syncthreads();
  FinishPiece(block, a, kDim, states, [&](int query, int d) {
    return MergeStates(kDecodeWarps, d, [&](int w) { return states + (w * kMergeQueries + query) * (kDim + 2); });
  });
}

template <KvType kType, int kDim>
Status Start(CudaStream stream, const AttentionShape& shape, dim3 grid, const DecodeHeads& heads,
             const DecodeArgs& args) {
  static_assert(SharedBytes<kType, kDim>() <= size_t{99} << 10, "more shared memory than some GPUs have");
  const LaunchShape launch{grid, kThreads, SharedBytes<kType, kDim>()};
  auto* kernel = shape.group > 8 ? DecodeKernel<kType, kDim, 2> : DecodeKernel<kType, kDim, 1>;
  return Launch(stream, "decode attention", launch, kernel, heads, args);
}

template <int kDim>
Status StartDim(CudaStream stream, const AttentionShape& shape, dim3 grid, const DecodeHeads& heads,
                const DecodeArgs& args) {
  switch (shape.kv_type) {
    case KvType::kInt8: return Start<KvType::kInt8, kDim>(stream, shape, grid, heads, args);
    case KvType::kInt4: return Start<KvType::kInt4, kDim>(stream, shape, grid, heads, args);
    default: return Start<KvType::kBF16, kDim>(stream, shape, grid, heads, args);
  }
}

}  // namespace

Status LaunchDecodeTensor(CudaStream stream, const AttentionShape& shape, dim3 grid, const DecodeHeads& heads,
                          const DecodeArgs& args) {
  grid.z = GridOf(shape.group, kMergeQueries);
  return shape.head_dim == 64 ? StartDim<64>(stream, shape, grid, heads, args)
                              : StartDim<128>(stream, shape, grid, heads, args);
}

}  // namespace duo
