#include "kernels/attention_backward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/cpu/dense/block_gemm.h"
#include "kernels/cpu/dense/dense_kernels.h"
#include "kernels/seen_keys.h"

namespace duo {
namespace {

// Rows of scores per block. This is enough for the products to run at full speed. It is few enough that a block of a
// streaming head (some hundred keys) stays in the second-level cache.
constexpr int64_t kBlockRows = 128;

int64_t BlockTokens(int group) { return std::max<int64_t>(1, kBlockRows / group); }

class Runner {
 public:
  Runner(const AttentionBackward& a, const DenseKernels& kernels)
      : a_(a), kernels_(kernels), block_(BlockTokens(a.group)), most_(MostSeenKeys(a.mask, a.n_tokens, block_)) {
    const int64_t rows = block_ * a.group, dim = a.head_dim;
    float* at = a.scratch;
    const auto take = [&at](int64_t n) { return std::exchange(at, at + n); };
    q_ = take(rows * dim), d_out_ = take(rows * dim), dq_ = take(rows * dim);
    k_ = take(most_ * dim), v_ = take(most_ * dim), dk_ = take(most_ * dim), dv_ = take(most_ * dim);
    p_ = take(rows * most_), ds_ = take(rows * most_);
  }

  void Run() {
    for (int64_t t = 0; t < a_.n_tokens; ++t) {
      std::fill_n(a_.dk + t * a_.kv_stride, a_.head_dim, 0.0f);
      std::fill_n(a_.dv + t * a_.kv_stride, a_.head_dim, 0.0f);
    }
    for (int64_t begin = 0; begin < a_.n_tokens; begin += block_) Block(begin, std::min(a_.n_tokens, begin + block_));
  }

 private:
  void Block(int64_t begin, int64_t end) {
    const SeenKeys keys = KeysSeenBy(a_.mask, begin, end);
    const int64_t rows = (end - begin) * a_.group, n = keys.count(), dim = a_.head_dim;
    const size_t query_bytes = a_.group * dim * sizeof(float);
    for (int64_t t = begin; t < end; ++t) {
      std::memcpy(q_ + (t - begin) * a_.group * dim, a_.q + t * a_.q_stride, query_bytes);
      std::memcpy(d_out_ + (t - begin) * a_.group * dim, a_.d_out + t * a_.q_stride, query_bytes);
    }
    const size_t row_bytes = dim * sizeof(float);
    for (int64_t r = 0; r < n; ++r) {
      std::memcpy(k_ + r * dim, a_.k + keys.pos(r) * a_.kv_stride, row_bytes);
      std::memcpy(v_ + r * dim, a_.v + keys.pos(r) * a_.kv_stride, row_bytes);
    }
    // p = q k^T * scale, ds = do v^T
    RunBlockGemm({q_, dim, Transpose::kNo, k_, dim, Transpose::kYes, rows, n, dim, a_.scale, 0.0f, p_, n});
    RunBlockGemm({d_out_, dim, Transpose::kNo, v_, dim, Transpose::kYes, rows, n, dim, 1.0f, 0.0f, ds_, n});
    for (int64_t r = 0; r < rows; ++r) SoftmaxRow(keys, begin + r / a_.group, p_ + r * n, ds_ + r * n);
    // dq = ds k, dk = ds^T q, dv = p^T do
    RunBlockGemm({ds_, n, Transpose::kNo, k_, dim, Transpose::kNo, rows, dim, n, 1.0f, 0.0f, dq_, dim});
    RunBlockGemm({ds_, n, Transpose::kYes, q_, dim, Transpose::kNo, n, dim, rows, 1.0f, 0.0f, dk_, dim});
    RunBlockGemm({p_, n, Transpose::kYes, d_out_, dim, Transpose::kNo, n, dim, rows, 1.0f, 0.0f, dv_, dim});
    for (int64_t t = begin; t < end; ++t) {
      std::memcpy(a_.dq + t * a_.q_stride, dq_ + (t - begin) * a_.group * dim, query_bytes);
    }
    for (int64_t r = 0; r < n; ++r) {
      kernels_.add(a_.dk + keys.pos(r) * a_.kv_stride, dk_ + r * dim, dim);
      kernels_.add(a_.dv + keys.pos(r) * a_.kv_stride, dv_ + r * dim, dim);
    }
  }

  /// In place: p turns from scores into weights, ds from do . v into scale * ds.
  void SoftmaxRow(const SeenKeys& keys, int64_t pos, float* p, float* ds) const {
    const int64_t n = keys.count();
    // Unseen keys lie between sinks and window, and after the query.
    const int64_t window_begin = a_.mask.window > pos ? 0 : pos - a_.mask.window + 1;
    const int64_t sink_end = keys.n_sinks + std::clamp(a_.mask.sink - keys.body, int64_t{0}, keys.end - keys.body);
    const int64_t hidden_end = std::max(sink_end, keys.n_sinks + std::max<int64_t>(0, window_begin - keys.body));
    const int64_t seen_end = keys.n_sinks + pos + 1 - keys.body;
    std::fill(p + std::min(sink_end, seen_end), p + std::min(hidden_end, seen_end), -INFINITY);
    std::fill(p + seen_end, p + n, -INFINITY);
    kernels_.softmax_backward({.scores = p, .dp = ds, .n = n, .scale = a_.scale});
  }

  const AttentionBackward& a_;
  const DenseKernels& kernels_;
  int64_t block_;
  int64_t most_;
  float *q_, *d_out_, *dq_;    // [block * group, head_dim]
  float *k_, *v_, *dk_, *dv_;  // [most, head_dim]
  float *p_, *ds_;             // [block * group, most]
};

}  // namespace

void RunAttentionBackward(const AttentionBackward& a, const DenseKernels& kernels) { Runner(a, kernels).Run(); }

size_t AttentionBackwardScratchFloats(int64_t n_tokens, int group, int head_dim, const LambdaMask& mask) {
  const int64_t block = BlockTokens(group), most = MostSeenKeys(mask, n_tokens, block);
  return 3 * block * group * head_dim + 4 * most * head_dim + 2 * block * group * most;
}

}  // namespace duo
