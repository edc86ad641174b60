#include "backend/cuda_attention_gradient.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/backward.h"
#include "kernels/cuda/launch.h"
#include "kernels/seen_keys.h"

namespace duo {
namespace {

constexpr int64_t kBlockTokens = 512;

int64_t BlockFloats(int64_t n_tokens, const LambdaMask& mask) {
  return std::min(kBlockTokens, n_tokens) * MostSeenKeys(mask, n_tokens, kBlockTokens);
}

/// Goes through blocks of queries, and in each block through the heads. For each there are three steps:
/// 1. The scores and d_out v^T, as whole products over all keys that any query of the block sees.
/// 2. The gradient of the softmax, row by row.
/// 3. Three products with its results: dq, dk and dv.
/// The keys' gradients are added in the order of the blocks.
class AttentionBlocks {
 public:
  AttentionBlocks(CudaStream stream, CudaMatmul* matmul, const AttentionGradient& a, float* scratch)
      : stream_(stream),
        matmul_(matmul),
        a_(a),
        q_stride_(int64_t{a.n_kv_heads} * a.group * a.head_dim),
        kv_stride_(int64_t{a.n_kv_heads} * a.head_dim),
        p_(scratch),
        ds_(scratch + BlockFloats(a.n_tokens, a.mask)) {}

  Status Run() const {
    const size_t bytes = a_.n_tokens * kv_stride_ * sizeof(float);
    for (float* gradient : {a_.dk, a_.dv}) {
      DUO_RETURN_IF_ERROR(CudaStatus(cudaMemsetAsync(gradient, 0, bytes, stream_.get()), "clearing"));
    }
    for (int64_t begin = 0; begin < a_.n_tokens; begin += kBlockTokens) {
      const Block block(a_.mask, begin, std::min(a_.n_tokens, begin + kBlockTokens));
      for (int64_t head = 0; head < int64_t{a_.n_kv_heads} * a_.group; ++head) {
        DUO_RETURN_IF_ERROR(Scores(block, head));
        DUO_RETURN_IF_ERROR(Softmax(block));
        DUO_RETURN_IF_ERROR(QueryGradient(block, head));
        DUO_RETURN_IF_ERROR(KeyGradients(block, head));
      }
    }
    return OkStatus();
  }

 private:
  /// Neighbouring keys. Their positions are [pos, pos + n), their columns in the scores [column, column + n).
  struct Keys {
    int64_t pos, column, n;
  };
  struct Block {
    Block(const LambdaMask& mask, int64_t first, int64_t end)
        : begin(first), rows(end - first), seen(KeysSeenBy(mask, first, end)) {
      if (seen.n_sinks > 0) keys.push_back({0, 0, seen.n_sinks});
      keys.push_back({seen.body, seen.n_sinks, seen.end - seen.body});
    }
    int64_t begin, rows;  // position of the first query, number of queries
    SeenKeys seen;
    std::vector<Keys> keys;  // all keys in `seen`: sinks, if any, and the rest
  };

  /// Offset of the block's queries of a head in q, d_out and dq, and of the keys of its KV head in k, v, dk and dv.
  int64_t QueriesAt(const Block& block, int64_t head) const { return block.begin * q_stride_ + head * a_.head_dim; }
  int64_t KeysAt(const Keys& keys, int64_t head) const { return keys.pos * kv_stride_ + head / a_.group * a_.head_dim; }

  /// p = scale * q k^T, ds = d_out v^T.
  Status Scores(const Block& block, int64_t head) const {
    for (const Keys& keys : block.keys) {
      CudaProduct product{.type = ComputeType::kF32,
                          .x = a_.q + QueriesAt(block, head),
                          .x_stride = q_stride_,
                          .w = a_.k + KeysAt(keys, head),
                          .w_stride = kv_stride_,
                          .n_tokens = block.rows,
                          .n_in = a_.head_dim,
                          .n_out = keys.n,
                          .out = p_ + keys.column,
                          .out_stride = block.seen.count(),
                          .scale = a_.scale};
      DUO_RETURN_IF_ERROR(matmul_->Run(product));
      product.x = a_.d_out + QueriesAt(block, head);
      product.w = a_.v + KeysAt(keys, head);
      product.out = ds_ + keys.column;
      product.scale = 1;
      DUO_RETURN_IF_ERROR(matmul_->Run(product));
    }
    return OkStatus();
  }

  /// p = softmax of the scores of visible keys, ds = scale * p (ds - sum p ds).
  Status Softmax(const Block& block) const {
    return RunCudaSoftmaxBackward(stream_, {.scores = p_,
                                            .dp = ds_,
                                            .n_rows = block.rows,
                                            .n_columns = block.seen.count(),
                                            .first_pos = block.begin,
                                            .keys = block.seen,
                                            .mask = a_.mask,
                                            .scale = a_.scale});
  }

  /// dq = ds k.
  Status QueryGradient(const Block& block, int64_t head) const {
    for (const Keys& keys : block.keys) {
      DUO_RETURN_IF_ERROR(matmul_->Run({.type = ComputeType::kF32,
                                        .x = ds_ + keys.column,
                                        .x_stride = block.seen.count(),
                                        .w = a_.k + KeysAt(keys, head),
                                        .w_stride = kv_stride_,
                                        .w_transposed = true,
                                        .n_tokens = block.rows,
                                        .n_in = keys.n,
                                        .n_out = a_.head_dim,
                                        .out = a_.dq + QueriesAt(block, head),
                                        .out_stride = q_stride_,
                                        .accumulate = keys.column > 0}));
    }
    return OkStatus();
  }

  /// dk += ds^T q, dv += p^T d_out.
  Status KeyGradients(const Block& block, int64_t head) const {
    for (const Keys& keys : block.keys) {
      CudaProduct product{.type = ComputeType::kF32,
                          .x = ds_ + keys.column,
                          .x_stride = block.seen.count(),
                          .x_transposed = true,
                          .w = a_.q + QueriesAt(block, head),
                          .w_stride = q_stride_,
                          .w_transposed = true,
                          .n_tokens = keys.n,
                          .n_in = block.rows,
                          .n_out = a_.head_dim,
                          .out = a_.dk + KeysAt(keys, head),
                          .out_stride = kv_stride_,
                          .accumulate = true};
      DUO_RETURN_IF_ERROR(matmul_->Run(product));
      product.x = p_ + keys.column;
      product.w = a_.d_out + QueriesAt(block, head);
      product.out = a_.dv + KeysAt(keys, head);
      DUO_RETURN_IF_ERROR(matmul_->Run(product));
    }
    return OkStatus();
  }

  CudaStream stream_;
  CudaMatmul* matmul_;
  const AttentionGradient& a_;
  int64_t q_stride_, kv_stride_;  // floats between tokens
  float *p_, *ds_;                // [queries of the block, keys that the block sees]
};

}  // namespace

size_t CudaAttentionGradientBytes(int64_t n_tokens, const LambdaMask& mask) {
  return 2 * BlockFloats(n_tokens, mask) * sizeof(float);
}

Status RunCudaAttentionGradient(CudaStream stream, CudaMatmul* matmul, const AttentionGradient& a, float* scratch) {
  return AttentionBlocks(stream, matmul, a, scratch).Run();
}

}  // namespace duo
