#include <algorithm>

#include "base/align.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/decode_state.h"

namespace duo {
namespace {

// Blocks of threads per multiprocessor. With fewer blocks some multiprocessors would be idle at the end. More blocks
// make more states to merge.
constexpr int64_t kBlocksPerProcessor = 4;
constexpr int64_t kRowStep = 64;  // a piece has a multiple of this: whole tiles of any kernel
constexpr int64_t kFewestRows = 128;

}  // namespace

CudaDecodePlan PlanCudaDecode(std::span<const DecodeHead> heads, int n_processors) {
  int64_t total = 0;
  for (const DecodeHead& head : heads) {
    for (const RowRange& range : head.ranges) total += range.end - range.begin;
  }
  const int64_t blocks = kBlocksPerProcessor * n_processors;
  CudaDecodePlan plan;
  plan.rows_per_piece = std::max(kFewestRows, RoundUp(DivideUp(total, blocks), kRowStep));
  for (const DecodeHead& head : heads) {
    int64_t n = 0;
    for (const RowRange& range : head.ranges) n += DivideUp(range.end - range.begin, plan.rows_per_piece);
    plan.n_pieces.push_back(n);
    plan.max_pieces = std::max(plan.max_pieces, n);
    plan.total_pieces += n;
  }
  return plan;
}

// Each of a head's two ranges may end in a piece that is not full.
int64_t MostCudaDecodePieces(int64_t n_heads, int n_processors) {
  return kBlocksPerProcessor * n_processors + 2 * n_heads;
}

int64_t CudaDecodeStateFloats(int64_t total_pieces, int group, int head_dim) {
  return total_pieces * group * StateStride(head_dim);
}

}  // namespace duo
