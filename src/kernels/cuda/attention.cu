#include "kernels/cuda/attention.h"

#include <algorithm>

#include "kernels/cuda/attention_launch.h"

namespace duo {

int64_t CudaDecodeCounters(int64_t n_heads, int group) {
  return n_heads * ((group + kMergeQueries - 1) / kMergeQueries);
}

Status CudaDecodeAttention(CudaStream stream, const AttentionShape& shape, std::span<const DecodeHead> heads,
                           int n_processors, float* states, int32_t* counters) {
  const CudaDecodePlan plan = PlanCudaDecode(heads, n_processors);
  int64_t first_piece = 0;
  for (size_t begin = 0; begin < heads.size(); begin += kMaxDecodeHeads) {
    const size_t n = std::min<size_t>(heads.size() - begin, kMaxDecodeHeads);
    DecodeHeads some = {};
    int64_t max_pieces = 0;
    for (size_t h = 0; h < n; ++h) {
      const int64_t n_pieces = plan.n_pieces[begin + h];
      some.head[h] = heads[begin + h];
      some.n_pieces[h] = static_cast<int32_t>(n_pieces);
      some.first_piece[h] = static_cast<int32_t>(first_piece);
      first_piece += n_pieces;
      max_pieces = std::max(max_pieces, n_pieces);
    }
    const DecodeArgs args{.group = shape.group,
                          .head_dim = shape.head_dim,
                          .rows_per_piece = plan.rows_per_piece,
                          .scale = shape.scale,
                          .states = states,
                          .counters = counters};
    const dim3 grid(static_cast<unsigned>(max_pieces), static_cast<unsigned>(n));
    const auto launch = ForTensorCores(shape) ? LaunchDecodeTensor : LaunchDecodeExact;
    DUO_RETURN_IF_ERROR(launch(stream, shape, grid, some, args));
  }
  return OkStatus();
}

Status CudaPrefillAttention(CudaStream stream, const AttentionShape& shape, std::span<const PrefillHead> heads) {
  for (size_t begin = 0; begin < heads.size(); begin += kMaxPrefillHeads) {
    const size_t n = std::min<size_t>(heads.size() - begin, kMaxPrefillHeads);
    PrefillHeads some = {};
    std::copy_n(heads.begin() + begin, n, some.head);
    const auto launch = ForTensorCores(shape) ? LaunchPrefillTensor : LaunchPrefillExact;
    DUO_RETURN_IF_ERROR(launch(stream, shape, static_cast<unsigned>(n), some));
  }
  return OkStatus();
}

}  // namespace duo
