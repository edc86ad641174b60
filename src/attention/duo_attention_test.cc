// Compares DuoAttention with a plain double-precision softmax over the exact Lambda mask.
#include "attention/duo_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/mask.h"
#include "kernels/reference/attention_reference.h"

namespace duo {
namespace {

struct Case {
  int n_kv_heads = 3;
  int group = 2;
  int head_dim = 16;
  int64_t sink = 3;
  int64_t recent = 9;
  int64_t prefill_recent = 9;
  int64_t n_prompt = 70;
  int64_t n_generated = 12;
  KvType type = KvType::kF32;
};

struct Output {
  std::vector<float> out;  // shapes as in AttentionInput
  std::vector<float> lse;
};

/// Random q, k, v of a sequence; heads alternate retrieval, streaming, streaming...
class Sequence {
 public:
  Sequence(const Case& c, uint64_t seed) : c_(c), n_(c.n_prompt + c.n_generated) {
    Rng rng(seed);
    const int64_t kv = n_ * c.n_kv_heads * c.head_dim;
    for (int64_t i = 0; i < kv * c.group; ++i) q.push_back(static_cast<float>(rng.Normal()));
    for (int64_t i = 0; i < kv; ++i) k.push_back(static_cast<float>(rng.Normal()));
    for (int64_t i = 0; i < kv; ++i) v.push_back(static_cast<float>(rng.Normal()));
    stored_k = Stored(k, KvPart::kKeys);
    stored_v = Stored(v, KvPart::kValues);
  }

  KvLayout Layout() const {
    KvLayout layout;
    layout.heads.n_layers = 1;
    layout.heads.n_kv_heads = c_.n_kv_heads;
    for (int h = 0; h < c_.n_kv_heads; ++h) layout.heads.retrieval.push_back(h % 3 == 0);
    layout.head_dim = c_.head_dim;
    layout.type = c_.type;
    layout.sink = c_.sink;
    layout.recent = c_.recent;
    layout.prefill_recent = c_.prefill_recent;
    layout.capacity = n_;
    return layout;
  }

  /// Runs everything through the cache: the prompt in chunks, the rest token by token.
  Output Run(Backend* backend, int64_t chunk) const {
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
    Output result{.out = std::vector<float>(q.size(), kNaN),
                  .lse = std::vector<float>(std::ssize(q) / c_.head_dim, kNaN)};
    auto cache = SplitKvCache::Create(backend, Layout());
    auto attention = DuoAttention::Create(backend, Layout(), chunk);
    EXPECT_TRUE(cache.ok() && attention.ok());
    for (int64_t pos = 0; pos < n_;) {
      const bool prompt = pos < c_.n_prompt;
      const int64_t n = prompt ? std::min(chunk, c_.n_prompt - pos) : 1;
      EXPECT_TRUE(cache->Begin(n).ok());
      const int64_t kv_row = int64_t{c_.n_kv_heads} * c_.head_dim;
      const Status status = attention->Run({.q = q.data() + pos * kv_row * c_.group,
                                            .k = k.data() + pos * kv_row,
                                            .v = v.data() + pos * kv_row,
                                            .n_tokens = n,
                                            .group = c_.group,
                                            .scale = Scale(),
                                            .kind = prompt ? TokenKind::kPrompt : TokenKind::kGenerated,
                                            .compute = ComputeType::kF32,
                                            .out = result.out.data() + pos * kv_row * c_.group,
                                            .lse = result.lse.data() + pos * c_.n_kv_heads * c_.group},
                                           0, &*cache);
      EXPECT_TRUE(status.ok()) << status.message();
      cache->Advance(n);
      pos += n;
    }
    return result;
  }

  Output Expected() const {
    Output out{.out = std::vector<float>(q.size()), .lse = std::vector<float>(std::ssize(q) / c_.head_dim)};
    for (int64_t i = 0; i < n_; ++i) {
      for (int h = 0; h < c_.n_kv_heads; ++h) {
        LambdaMask mask;
        if (h % 3 != 0) mask = {.sink = c_.sink, .window = i < c_.n_prompt ? c_.prefill_recent : c_.recent};
        for (int g = 0; g < c_.group; ++g) ExpectedHead(i, h, g, mask, &out);
      }
    }
    return out;
  }

 private:
  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(c_.head_dim)); }
  /// The values as a cache of this type stores them.
  std::vector<float> Stored(std::vector<float> rows, KvPart part) const {
    std::vector<uint8_t> one_row(KvBytes(c_.type, c_.head_dim, 1));
    for (int64_t at = 0; at < std::ssize(rows) && c_.type != KvType::kF32; at += c_.head_dim) {
      if (c_.type == KvType::kBF16) {
        for (int d = 0; d < c_.head_dim; ++d) rows[at + d] = ToFloat(ToBf16(rows[at + d]));
        continue;
      }
      QuantizeRow(rows.data() + at, {part, c_.type, c_.head_dim}, one_row.data(), 0);
      for (int d = 0; d < c_.head_dim; ++d) {
        rows[at + d] = static_cast<float>(KvElement(one_row.data(), part, c_.type, 0, c_.head_dim, d));
      }
    }
    return rows;
  }
  void ExpectedHead(int64_t i, int h, int g, const LambdaMask& mask, Output* out) const {
    const int dim = c_.head_dim;
    const auto kv_at = [&](int64_t j) { return (j * c_.n_kv_heads + h) * dim; };
    const int64_t q_at = ((i * c_.n_kv_heads + h) * c_.group + g) * dim;
    std::vector<double> acc(dim, 0);
    double total = 0;
    for (int64_t j = 0; j <= i; ++j) {
      if (!Sees(mask, i, j)) continue;
      double score = 0;
      for (int d = 0; d < dim; ++d) score += static_cast<double>(q[q_at + d]) * stored_k[kv_at(j) + d];
      const double p = std::exp(score * static_cast<double>(Scale()));
      total += p;
      for (int d = 0; d < dim; ++d) acc[d] += p * stored_v[kv_at(j) + d];
    }
    for (int d = 0; d < dim; ++d) out->out[q_at + d] = static_cast<float>(acc[d] / total);
    out->lse[q_at / dim] = static_cast<float>(std::log(total));
  }

  Case c_;
  int64_t n_;
  std::vector<float> q, k, v, stored_k, stored_v;
};

/// The largest difference; infinite when a value is not a number.
float MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  float worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float error = std::fabs(a[i] - b[i]);
    worst = std::max(worst, std::isnan(error) ? INFINITY : error);
  }
  return worst;
}

void CheckAll(const Case& c, uint64_t seed) {
  const Sequence sequence(c, seed);
  const Output expected = sequence.Expected();
  for (const int threads : {1, 2}) {
    auto backend = CreateBackend({.device = Device::kCpu, .n_threads = threads});
    ASSERT_TRUE(backend.ok());
    for (const int64_t chunk : {1, 2, 7, 33, 200}) {
      const Output got = sequence.Run(backend->get(), chunk);
      EXPECT_LE(MaxDifference(got.out, expected.out), 2e-5f) << "chunk " << chunk << ", " << threads << " threads";
      EXPECT_LE(MaxDifference(got.lse, expected.lse), 2e-5f) << "chunk " << chunk << ", " << threads << " threads";
    }
  }
}

TEST(DuoAttention, IsExactForEveryChunk) { CheckAll({}, 1); }
TEST(DuoAttention, WithoutSinks) { CheckAll({.sink = 0, .recent = 5, .prefill_recent = 5}, 2); }
TEST(DuoAttention, WindowOfOne) { CheckAll({.sink = 2, .recent = 1, .prefill_recent = 1}, 3); }
TEST(DuoAttention, WindowLongerThanTheText) { CheckAll({.sink = 4, .recent = 300, .prefill_recent = 300}, 4); }
TEST(DuoAttention, SinkLongerThanTheText) { CheckAll({.sink = 300, .recent = 2, .prefill_recent = 2}, 5); }
TEST(DuoAttention, WiderWindowForThePrompt) { CheckAll({.sink = 3, .recent = 4, .prefill_recent = 21}, 6); }
TEST(DuoAttention, Bf16Cache) { CheckAll({.group = 7, .head_dim = 32, .type = KvType::kBF16}, 7); }
TEST(DuoAttention, Int8Cache) { CheckAll({.group = 4, .head_dim = 20, .type = KvType::kInt8}, 8); }
TEST(DuoAttention, Int4Cache) { CheckAll({.group = 4, .head_dim = 32, .sink = 20, .type = KvType::kInt4}, 9); }
TEST(DuoAttention, ScratchIsForTheLayerWithMostStreamingHeads) {
  KvLayout layout = Sequence({}, 1).Layout();
  EXPECT_EQ(layout.heads.n_kv_heads - layout.heads.n_retrieval_in(0), 2);
  layout.heads.n_layers = 2;
  layout.heads.retrieval.insert(layout.heads.retrieval.end(), {1, 1, 0});
  const size_t rows = 3 + layout.ring() + 7;
  EXPECT_EQ(DuoAttention::ScratchBytes(layout, 7), 2 * 2 * rows * 16 * sizeof(float)) << "keys and values of two heads";
  layout.heads.retrieval.assign(6, 1);
  EXPECT_EQ(DuoAttention::ScratchBytes(layout, 7), 0u);
}
TEST(DuoAttention, ManyRandomShapes) {
  Rng rng(99);
  for (int i = 0; i < 25; ++i) {
    Case c;
    c.n_kv_heads = static_cast<int>(1 + rng.Below(5));
    c.group = static_cast<int>(1 + rng.Below(8));
    c.head_dim = static_cast<int>(2 * (4 + rng.Below(30)));
    c.sink = static_cast<int64_t>(rng.Below(20));
    c.recent = static_cast<int64_t>(1 + rng.Below(40));
    c.prefill_recent = c.recent + static_cast<int64_t>(rng.Below(2) * rng.Below(30));
    c.n_prompt = static_cast<int64_t>(1 + rng.Below(150));
    c.type = static_cast<KvType>(rng.Below(4));
    SCOPED_TRACE("case " + std::to_string(i));
    CheckAll(c, 1000 + static_cast<uint64_t>(i));
  }
}

}  // namespace
}  // namespace duo
