// Prefill attention on tensor cores (FlashAttention-2, arXiv:2307.08691, algorithm 1). A block of four warps has 128
// queries of one KV head: tokens times the group's heads. It walks over tiles of 64 rows of the cache and skips tiles
// that the mask hides from all its queries. While it multiplies, the next rows are copied to shared memory. Codes are
// widened there once for all queries.
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/prefill_mask.cuh"
#include "kernels/cuda/prefill_tiles.cuh"
#include "kernels/cuda/prefill_warp.cuh"

namespace duo {
namespace {

/// Number of blocks for which a multiprocessor has registers.
template <int kDim>
constexpr int kPrefillBlocks = kDim == 64 ? 3 : 2;

template <KvType kType, int kDim>
__global__ void __launch_bounds__(kPrefillThreads, kPrefillBlocks<kDim>)
    PrefillKernel(const __grid_constant__ PrefillHeads heads, const __grid_constant__ PrefillArgs a) {
  using S = PrefillShared<kType, kDim>;
  DUO_SHARED_MEMORY(memory);
  auto* s = reinterpret_cast<S*>(memory);
  const PrefillHead& head = heads.head[blockIdx.y];
  const PrefillQueries queries = QueriesOfBlock(a);
  const SeenRows by_any = RowsSeen(head, queries.first_pos, queries.last_pos);
  const SeenRows by_all = RowsSeen(head, queries.last_pos, queries.first_pos);

  int row = NextTile(by_any, 0);
  FetchTile(s, head, row, by_any);
  LoadQueries(s, head, queries, a);
  __syncthreads();
  PrefillWarp<kType, kDim> warp(s);
  while (row < by_any.end) {
    const int next = NextTile(by_any, row + kPrefillRows);
    WaitForCopies<0>();
    __syncthreads();  // the tile has arrived, and all warps are done with the one before
    if constexpr (S::kCodes) {
      WidenTile(s, SeenOf(by_any, row));
      __syncthreads();
      FetchTile(s, head, next, by_any);
      warp.Scores();
    } else {
      FetchValues(s, head, row, by_any);
      warp.Scores();
      WaitForCopies<0>();
      __syncthreads();  // the values have arrived, and all warps are done with the keys
      FetchTile(s, head, next, by_any);
    }
    warp.Softmax(head, queries, row, SeenOf(by_all, row));
    warp.Values();
    row = next;
  }
  warp.Finish(head, queries, a);
}

template <KvType kType, int kDim>
Status Start(CudaStream stream, const AttentionShape& shape, unsigned n_heads, const PrefillHeads& heads) {
  constexpr size_t kSharedBytes = sizeof(PrefillShared<kType, kDim>), kReserved = 1 << 10;  // per block
  static_assert(kPrefillBlocks<kDim> * (kSharedBytes + kReserved) <= size_t{164} << 10,
                "more shared memory than an A100 has");
  static_assert(kSharedBytes <= size_t{99} << 10, "more shared memory than some GPUs have");
  const PrefillArgs args = PrefillArgsOf(shape, kPrefillQueries);
  const LaunchShape launch{PrefillGrid(args, n_heads), kPrefillThreads, kSharedBytes};
  return Launch(stream, "prefill attention", launch, PrefillKernel<kType, kDim>, heads, args);
}

template <int kDim>
Status StartDim(CudaStream stream, const AttentionShape& shape, unsigned n_heads, const PrefillHeads& heads) {
  switch (shape.kv_type) {
    case KvType::kInt8: return Start<KvType::kInt8, kDim>(stream, shape, n_heads, heads);
    case KvType::kInt4: return Start<KvType::kInt4, kDim>(stream, shape, n_heads, heads);
    default: return Start<KvType::kBF16, kDim>(stream, shape, n_heads, heads);
  }
}

}  // namespace

Status LaunchPrefillTensor(CudaStream stream, const AttentionShape& shape, unsigned n_heads,
                           const PrefillHeads& heads) {
  return shape.head_dim == 64 ? StartDim<64>(stream, shape, n_heads, heads)
                              : StartDim<128>(stream, shape, n_heads, heads);
}

}  // namespace duo
