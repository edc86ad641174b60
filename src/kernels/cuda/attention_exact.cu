#include <algorithm>

#include "kernels/cuda/attention_exact.cuh"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

static_assert(kMergeQueries <= kExactQueries);

template <KvType kType>
__global__ void DecodeExactKernel(const __grid_constant__ DecodeHeads heads, DecodeArgs a) {
  DUO_SHARED_MEMORY(shared);
  const DecodeBlock block = ThisDecodeBlock(heads, a);
  if (block.piece >= block.n_pieces) return;
  const DecodeHead& head = block.head;
  const int n = block.n_queries;
  const ExactTile tile = ExactTileAt(shared, a.head_dim);
  const RowRange rows = RowsOfPiece(head, block.piece, a.rows_per_piece);
  BeginExact(tile, n, a.head_dim, a.scale, [&](int i) { return head.q + (block.first_query + i) * a.head_dim; });
  for (int64_t row = rows.begin / kExactRows * kExactRows; row < rows.end; row += kExactRows) {
    FoldExact<kType>(tile, n, a.head_dim, head.k, head.v, row, rows.begin, rows.end, [](int, int64_t) { return true; });
  }
  __syncthreads();
  FinishPiece(block, a, a.head_dim, reinterpret_cast<float*>(shared), [&](int query, int d) {
    return MergedState{tile.max[query], tile.sum[query], tile.acc[query * a.head_dim + d]};
  });
}

template <KvType kType>
__global__ void PrefillExactKernel(const __grid_constant__ PrefillHeads heads, PrefillArgs a) {
  DUO_SHARED_MEMORY(shared);
  const PrefillHead& head = heads.head[blockIdx.y];
  const int first_head = static_cast<int>(blockIdx.z) * a.group_step;
  const int n_heads = a.group - first_head < a.group_step ? a.group - first_head : a.group_step;
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * a.tokens_step;
  const int64_t left = a.n_tokens - first_token;
  const int n_tokens = static_cast<int>(left < a.tokens_step ? left : a.tokens_step), n = n_tokens * n_heads;
  const ExactTile tile = ExactTileAt(shared, a.head_dim);
  const auto offset = [&](int i) {
    return (first_token + i / n_heads) * a.q_stride + (first_head + i % n_heads) * a.head_dim;
  };
  BeginExact(tile, n, a.head_dim, a.scale, [&](int i) { return head.q + offset(i); });
  const int64_t first_pos = a.q_pos + first_token, last_pos = first_pos + n_tokens - 1;
  const auto position = [&](int64_t row) { return PositionOf(head, row); };
  for (int64_t row = 0; row < head.n_rows && position(row) <= last_pos; row += kExactRows) {
    const int64_t end = row + kExactRows < head.n_rows ? row + kExactRows : head.n_rows;
    // No query sees a tile that lies after the sinks and before the window of the first query.
    if (position(row) >= head.mask.sink && first_pos - position(end - 1) >= head.mask.window) continue;
    FoldExact<kType>(tile, n, a.head_dim, head.k, head.v, row, 0, head.n_rows,
                     [&](int i, int64_t r) { return Sees(head.mask, first_pos + i / n_heads, position(r)); });
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n * a.head_dim; i += kExactThreads) {
    const int query = i / a.head_dim, d = i % a.head_dim;
    const float sum = tile.sum[query];
    head.out[offset(query) + d] = sum == 0.0f ? 0.0f : tile.acc[i] / sum;
    if (d == 0 && head.lse != nullptr) {
      head.lse[(first_token + query / n_heads) * a.lse_stride + first_head + query % n_heads] =
          tile.max[query] + logf(sum);
    }
  }
}

}  // namespace

Status LaunchDecodeExact(CudaStream stream, const AttentionShape& shape, dim3 grid, const DecodeHeads& heads,
                         const DecodeArgs& args) {
  grid.z = GridOf(shape.group, kMergeQueries);
  const size_t shared_bytes = std::max(ExactSharedBytes(shape.head_dim), kMergeFloats * sizeof(float));
  const LaunchShape launch{grid, kExactThreads, shared_bytes};
  auto* kernel = shape.kv_type == KvType::kF32    ? DecodeExactKernel<KvType::kF32>
                 : shape.kv_type == KvType::kBF16 ? DecodeExactKernel<KvType::kBF16>
                 : shape.kv_type == KvType::kInt8 ? DecodeExactKernel<KvType::kInt8>
                                                  : DecodeExactKernel<KvType::kInt4>;
  return Launch(stream, "decode attention", launch, kernel, heads, args);
}

Status LaunchPrefillExact(CudaStream stream, const AttentionShape& shape, unsigned n_heads, const PrefillHeads& heads) {
  const PrefillArgs args = PrefillArgsOf(shape, kExactQueries);
  const LaunchShape launch{PrefillGrid(args, n_heads), kExactThreads, ExactSharedBytes(shape.head_dim)};
  auto* kernel = shape.kv_type == KvType::kF32    ? PrefillExactKernel<KvType::kF32>
                 : shape.kv_type == KvType::kBF16 ? PrefillExactKernel<KvType::kBF16>
                 : shape.kv_type == KvType::kInt8 ? PrefillExactKernel<KvType::kInt8>
                                                  : PrefillExactKernel<KvType::kInt4>;
  return Launch(stream, "prefill attention", launch, kernel, heads, args);
}

}  // namespace duo
