#include "backend/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu_team.h"
#include "backend/decode_split.h"
#include "base/align.h"
#include "base/bf16.h"
#include "base/parallel.h"
#include "kernels/kv_codes.h"
#include "kernels/softmax_state.h"

namespace duo {
namespace {

// With f32 a token's result must not depend on the other sequences of the call.
DecodeCut CutOf(ComputeType compute) {
  return compute == ComputeType::kF32 ? DecodeCut::kByHead : DecodeCut::kBalanced;
}

/// The partial softmax states of a decode step's pieces, in memory of the caller.
class PieceStates {
 public:
  PieceStates(uint8_t* memory, int group, int head_dim)
      : memory_(memory), group_(group), head_dim_(head_dim), bytes_(BytesEach(group, head_dim)) {}

  static size_t BytesEach(int group, int head_dim) {
    return RoundUp(group * (head_dim + size_t{2}) * sizeof(float), kCacheLineBytes);
  }

  SoftmaxStates At(size_t piece) const {
    auto* acc = reinterpret_cast<float*>(memory_ + piece * bytes_);
    float* max = acc + int64_t{group_} * head_dim_;
    return {.max = max, .sum = max + group_, .acc = acc};
  }
  /// Returns the states of `piece`, which have seen no row.
  SoftmaxStates Clear(size_t piece) const {
    const SoftmaxStates state = At(piece);
    std::fill(state.acc, state.max, 0.0f);
    std::fill(state.max, state.sum, kNegInf);
    std::fill(state.sum, state.sum + group_, 0.0f);
    return state;
  }
  /// Folds `from` into `to`.
  void Merge(const SoftmaxStates& from, const SoftmaxStates& to) const {
    for (int64_t g = 0; g < group_; ++g) {
      MergeSoftmaxState(to.max + g, to.sum + g, to.acc + g * head_dim_, from.max[g], from.sum[g],
                        from.acc + g * head_dim_, head_dim_);
    }
  }
  /// Writes the result of a head whose rows are all in `state`.
  void Finish(const SoftmaxStates& state, const DecodeHead& head) const {
    for (int64_t g = 0; g < group_; ++g) {
      FinishSoftmax(state.sum[g], state.acc + g * head_dim_, head.out + g * head_dim_, head_dim_);
    }
    if (head.lse == nullptr) return;
    for (int64_t g = 0; g < group_; ++g) head.lse[g] = state.max[g] + std::log(state.sum[g]);
  }

 private:
  uint8_t* memory_;
  int group_;
  int head_dim_;
  size_t bytes_;
};

}  // namespace

void CpuAttention::StoreRows(std::span<const StoreTask> tasks, int head_dim, KvType type) {
  int64_t total = 0;
  for (const StoreTask& task : tasks) total += task.n_rows * head_dim;
  ParallelFor(TeamFor(total, n_threads_), std::ssize(tasks), [&](int64_t i, int) {
    const StoreTask& task = tasks[i];
    for (int64_t r = 0; r < task.n_rows; ++r) {
      const float* src = task.src + r * task.src_stride;
      uint8_t* dst = task.dst + (task.row + r) * KvRowBytes(type, head_dim);
      switch (type) {
        case KvType::kF32: std::memcpy(dst, src, KvRowBytes(type, head_dim)); break;
        case KvType::kBF16: dense_.f32_to_bf16(src, reinterpret_cast<bf16*>(dst), head_dim); break;
        default: QuantizeRow(src, {task.part, type, head_dim}, task.dst, task.row + r); break;
      }
    }
  });
}

void CpuAttention::CopyRows(std::span<const CopyRowsTask> tasks, int head_dim, KvType type) {
  int64_t total = 0;
  for (const CopyRowsTask& task : tasks) total += task.n_rows * head_dim;
  ParallelFor(TeamFor(total, n_threads_), std::ssize(tasks), [&](int64_t i, int) {
    const CopyRowsTask& task = tasks[i];
    CopyKvRows({task.part, type, head_dim}, task.src, task.src_row, task.dst, task.dst_row, task.n_rows);
  });
}

Status CpuAttention::Decode(const AttentionShape& shape, std::span<const DecodeHead> heads) {
  const int64_t n_heads_each = shape.q_stride / (int64_t{shape.group} * shape.head_dim);
  const std::vector<DecodePiece> pieces = SplitDecode(heads, n_heads_each, n_threads_, CutOf(shape.compute));
  DUO_ASSIGN_OR_RETURN(uint8_t * memory,
                       states_.Get(PieceStates::BytesEach(shape.group, shape.head_dim) * pieces.size()));
  const PieceStates states(memory, shape.group, shape.head_dim);
  int64_t rows = 0;
  for (const DecodePiece& piece : pieces) rows += piece.rows.end - piece.rows.begin;
  const int team = TeamFor(rows * shape.head_dim * shape.group, n_threads_);
  ParallelFor(team, std::ssize(pieces), [&](int64_t i, int) {
    const DecodePiece& piece = pieces[i];
    attention_.decode({.shape = shape, .head = heads[piece.head], .rows = piece.rows, .states = states.Clear(i)});
  });
  for (size_t first = 0, next = 0; first < pieces.size(); first = next) {
    const SoftmaxStates state = states.At(first);
    for (next = first + 1; next < pieces.size() && pieces[next].head == pieces[first].head; ++next) {
      states.Merge(states.At(next), state);
    }
    states.Finish(state, heads[pieces[first].head]);
  }
  return OkStatus();
}

Status CpuAttention::Prefill(const AttentionShape& shape, std::span<const PrefillHead> heads) {
  const int64_t block = PrefillBlockTokens(shape.group, shape.head_dim);
  const auto n_blocks = DivideUp(shape.n_tokens, block), n_heads = std::ssize(heads);
  const size_t tile_bytes = RoundUp(PrefillScratchBytes(shape.group, shape.head_dim), kCacheLineBytes);
  DUO_ASSIGN_OR_RETURN(uint8_t * tiles, tiles_.Get(tile_bytes * n_threads_));
  // The last block of a chunk sees the most keys. It goes first, so that no thread has a long block left at the end.
  ParallelFor(n_threads_, n_blocks * n_heads, [&](int64_t task, int thread) {
    const int64_t begin = (n_blocks - 1 - task / n_heads) * block;
    PrefillAttention a{shape, heads[task % n_heads], tiles + tile_bytes * thread};
    a.shape.q_pos += begin;
    a.shape.n_tokens = std::min(block, shape.n_tokens - begin);
    a.head.q += begin * shape.q_stride;
    a.head.out += begin * shape.q_stride;
    if (a.head.lse != nullptr) a.head.lse += begin * shape.lse_stride;
    attention_.prefill(a);
  });
  return OkStatus();
}

uint64_t CpuAttention::MaxScratchBytes(const CallBounds& bounds) const {
  const auto pieces =
      static_cast<uint64_t>(MaxDecodePieces(bounds.n_kv_heads, bounds.n_sequences, n_threads_, CutOf(bounds.compute)));
  const uint64_t states = pieces * PieceStates::BytesEach(bounds.group, bounds.head_dim);
  const uint64_t tiles = n_threads_ * RoundUp(PrefillScratchBytes(bounds.group, bounds.head_dim), kCacheLineBytes);
  return states + tiles;
}

}  // namespace duo
