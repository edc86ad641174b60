// Attention on the device against the softmax in double, within docs/numerics.md. On a GPU, or on the CPU through
// tests/cuda_on_host.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/attention_test_util.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_array_for_test.h"

namespace duo {
namespace {

using namespace attention_test;

constexpr int kProcessors = 4;

/// K or V of one head: rows of NaN until they are set.
struct Side {
  Side(KvPart which, KvType type, int head_dim, int64_t n_rows) : rows(n_rows, head_dim, type, 0), part(which) {
    rows.SetPart(part);
  }
  void Upload(KvType type, int head_dim) {
    const auto* from = static_cast<const uint8_t*>(rows.data());
    device = std::make_unique<DeviceArray<uint8_t>>(
        std::vector<uint8_t>(from, from + KvBytes(type, head_dim, rows.n_rows())));
  }
  TestRows rows;
  KvPart part;
  std::unique_ptr<DeviceArray<uint8_t>> device;
};

/// Bounds of docs/numerics.md for products of floats, and for tensor cores, which round queries and weights to bf16.
struct Bound {
  double relative, absolute;
};
Bound BoundOf(const Shape& s, const Guarded& q, const Side& k, const Side& v, int64_t n_queries, int64_t n_keys) {
  const double u = std::ldexp(1.0, -24), u16 = std::ldexp(1.0, -8);
  const bool exact = s.math == AttentionMath::kF32;
  const double largest = LargestProducts(s, q, k.rows, n_queries, k.rows.n_rows()).largest;
  const double score = largest * ((s.head_dim + 8) * u + (exact ? 0.0 : u16));
  return {2 * score + (static_cast<double>(n_keys) + 64) * u + (exact ? 0.0 : 2 * u16),
          AbsoluteBound(s, v.rows, n_keys) + 1e-30};
}

struct Range {
  int64_t begin, end;
};

/// One decode step over heads with these ranges of rows; other rows are NaN.
void CheckDecode(const Shape& s, const std::vector<std::vector<Range>>& heads, uint64_t seed,
                 int n_processors = kProcessors) {
  SCOPED_TRACE(Describe(s));
  Rng rng(seed);
  const auto n_heads = static_cast<int64_t>(heads.size());
  Guarded q(n_heads * s.group * s.head_dim, DType::kF32, 0);
  FillNormal(&q, 1.0, &rng);
  std::vector<Side> k, v;
  std::vector<float> row(static_cast<size_t>(s.head_dim));
  for (const auto& ranges : heads) {
    const int64_t n_rows = ranges.back().end + 3;
    k.emplace_back(KvPart::kKeys, s.kv_type, s.head_dim, n_rows);
    v.emplace_back(KvPart::kValues, s.kv_type, s.head_dim, n_rows);
    for (const Range& range : ranges) {
      for (int64_t r = range.begin; r < range.end; ++r) {
        for (Side* side : {&k.back(), &v.back()}) {
          for (float& x : row) x = static_cast<float>(rng.Normal());
          side->rows.SetRow(r, row.data());
        }
      }
    }
    k.back().Upload(s.kv_type, s.head_dim);
    v.back().Upload(s.kv_type, s.head_dim);
  }
  const DeviceArray<float> device_q(std::vector<float>(q.floats(), q.floats() + q.size()));
  const DeviceArray<float> out(static_cast<size_t>(q.size())), lse(static_cast<size_t>(n_heads * s.group));
  std::vector<CudaDecodeHead> list;
  for (int64_t h = 0; h < n_heads; ++h) {
    const auto at = static_cast<size_t>(h);
    CudaDecodeHead head{.q = device_q.data() + h * s.group * s.head_dim,
                        .k = k[at].device->data(),
                        .v = v[at].device->data(),
                        .out = out.data() + h * s.group * s.head_dim,
                        .lse = lse.data() + h * s.group,
                        .begin = {},
                        .end = {}};
    for (size_t i = 0; i < heads[at].size(); ++i) head.begin[i] = heads[at][i].begin, head.end[i] = heads[at][i].end;
    list.push_back(head);
  }
  const int64_t n_floats = CudaDecodeStateFloats(MostCudaDecodePieces(n_heads, n_processors), s.group, s.head_dim);
  const DeviceArray<float> states(static_cast<size_t>(n_floats));
  const DeviceArray<int32_t> counters(
      std::vector<int32_t>(static_cast<size_t>(CudaDecodeCounters(n_heads, s.group)), 0));
  const CudaAttentionShape shape{.group = s.group,
                                 .head_dim = s.head_dim,
                                 .q_stride = 0,
                                 .lse_stride = 0,
                                 .q_pos = 0,
                                 .n_tokens = 1,
                                 .kv_type = s.kv_type,
                                 .exact = s.math == AttentionMath::kF32,
                                 .scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim))};
  const Status status = CudaDecodeAttention(nullptr, shape, list, n_processors, states.data(), counters.data());
  ASSERT_TRUE(status.ok()) << status.message();
  const std::vector<float> got = out.ToHost(), got_lse = lse.ToHost();
  for (const int32_t counter : counters.ToHost()) ASSERT_EQ(counter, 0);
  for (int64_t h = 0; h < n_heads; ++h) {
    const auto at = static_cast<size_t>(h);
    std::vector<int64_t> rows;
    for (const Range& range : heads[at]) {
      for (int64_t r = range.begin; r < range.end; ++r) rows.push_back(r);
    }
    Guarded head_q(int64_t{s.group} * s.head_dim, DType::kF32, 0);
    for (int64_t i = 0; i < head_q.size(); ++i) head_q.Set(i, q.Get(h * head_q.size() + i));
    const Bound bound = BoundOf(s, head_q, k[at], v[at], s.group, static_cast<int64_t>(rows.size()));
    for (int g = 0; g < s.group; ++g) {
      std::vector<double> score;
      double most = -INFINITY, sum = 0;
      for (const int64_t r : rows) {
        double dot = 0;
        for (int d = 0; d < s.head_dim; ++d) {
          dot += double{head_q.Get(int64_t{g} * s.head_dim + d)} * k[at].rows.Get(r * s.head_dim + d);
        }
        score.push_back(dot * shape.scale);
        most = std::max(most, score.back());
      }
      for (double& p : score) sum += p = std::exp(p - most);
      ASSERT_NEAR(got_lse[static_cast<size_t>(h * s.group + g)], most + std::log(sum), bound.relative + 1e-5);
      for (int d = 0; d < s.head_dim; ++d) {
        double want = 0, weight = 0;
        for (size_t i = 0; i < rows.size(); ++i) {
          const double value = v[at].rows.Get(rows[i] * s.head_dim + d);
          want += score[i] / sum * value;
          weight += score[i] / sum * std::fabs(value);
        }
        ASSERT_NEAR(got[static_cast<size_t>((h * s.group + g) * s.head_dim + d)], want,
                    bound.relative * weight + bound.absolute)
            << "head " << h << " query " << g << " dim " << d;
      }
    }
  }
}

TEST(CudaDecodeAttention, AgreesForAllHeadDimsGroupsAndTypes) {
  uint64_t seed = 1;
  for (const int head_dim : {8, 10, 64, 80, 128, 256, 512}) {
    for (const int group : {1, 3, 4, 8, 17}) {
      if (head_dim > 128 && group > 4) continue;  // slow on the CPU, and nothing new
      for (const Shape& s : TypesOf({.head_dim = head_dim, .group = group})) {
        CheckDecode(s, {{{0, 70}}, {{0, 5}, {9, 40}}}, seed++);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(CudaDecodeAttention, AgreesForAllRangesInPiecesAndWhole) {
  uint64_t seed = 100;
  for (const int head_dim : {16, 64}) {
    for (const Shape& s : TypesOf({.head_dim = head_dim, .group = 2})) {
      CheckDecode(s, {{{0, 1}}, {{3, 4}, {31, 33}}, {{15, 17}, {17, 50}}, {{0, 300}}, {{1, 129}, {140, 500}}}, seed++);
      if (HasFatalFailure()) return;
      CheckDecode(s, {{{0, 4000}}}, seed++);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(CudaDecodeAttention, MorePiecesThanAreMergedTogether) {
  for (const int head_dim : {10, 64}) {
    for (const KvType type : {KvType::kBF16, KvType::kInt4}) {
      CheckDecode({.head_dim = head_dim, .group = 17, .kv_type = type, .math = AttentionMath::kBF16}, {{{5, 9000}}}, 7,
                  40);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(CudaDecodeAttention, MoreHeadsThanALaunchTakes) {
  std::vector<std::vector<Range>> heads(70, {{0, 20}});
  heads[69] = {{0, 700}};
  CheckDecode({.head_dim = 8, .group = 1, .kv_type = KvType::kBF16, .math = AttentionMath::kF32}, heads, 5);
}

TEST(CudaDecodePlan, PiecesCoverEveryRangeWithinTheScratch) {
  Rng rng(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<CudaDecodeHead> heads(1 + rng.Below(80));
    for (CudaDecodeHead& head : heads) {
      head = {};
      head.begin[0] = static_cast<int64_t>(rng.Below(40));
      head.end[0] = head.begin[0] + 1 + static_cast<int64_t>(rng.Below(rng.Below(2) == 0 ? 50 : 3000000));
      if (rng.Below(2) == 0)
        head.begin[1] = head.end[0] + 2, head.end[1] = head.begin[1] + static_cast<int64_t>(rng.Below(500));
    }
    const int n_processors = static_cast<int>(1 + rng.Below(150));
    const CudaDecodePlan plan = PlanCudaDecode(heads, n_processors);
    EXPECT_EQ(plan.rows_per_piece % 16, 0);
    int64_t total = 0;
    for (size_t h = 0; h < heads.size(); ++h) {
      int64_t pieces = 0;
      for (int i = 0; i < 2; ++i) {
        pieces += (heads[h].end[i] - heads[h].begin[i] + plan.rows_per_piece - 1) / plan.rows_per_piece;
      }
      EXPECT_EQ(plan.n_pieces[h], pieces);
      total += pieces;
    }
    EXPECT_EQ(plan.total_pieces, total);
    EXPECT_LE(total, MostCudaDecodePieces(static_cast<int64_t>(heads.size()), n_processors));
  }
}

struct PrefillCase {
  Shape shape;
  int64_t n_tokens = 1, q_pos = 0, n_sink_rows = 0, body_pos = 0, n_rows = 0;
  LambdaMask mask;
};

PrefillCase WholeCache(Shape s, int64_t q_pos, int64_t n_tokens, LambdaMask mask) {
  return {.shape = s, .n_tokens = n_tokens, .q_pos = q_pos, .n_rows = q_pos + n_tokens, .mask = mask};
}

PrefillCase SplitCache(Shape s, int64_t q_pos, int64_t n_tokens, LambdaMask mask) {
  const int64_t sinks = std::min(mask.sink, q_pos), body_pos = std::max(sinks, q_pos - mask.window + 1);
  return {.shape = s,
          .n_tokens = n_tokens,
          .q_pos = q_pos,
          .n_sink_rows = sinks,
          .body_pos = body_pos,
          .n_rows = sinks + q_pos + n_tokens - body_pos,
          .mask = mask};
}

/// Two heads with caches of their own, token-major as activations are.
void CheckPrefill(const PrefillCase& c, uint64_t seed) {
  const Shape& s = c.shape;
  SCOPED_TRACE(Describe(s) + " tokens " + std::to_string(c.n_tokens) + " at " + std::to_string(c.q_pos) + " sink " +
               std::to_string(c.mask.sink) + " window " + std::to_string(c.mask.window));
  Rng rng(seed);
  constexpr int kHeads = 2;
  const int64_t width = int64_t{s.group} * s.head_dim, stride = kHeads * width, lse_stride = kHeads * s.group;
  std::vector<float> q(static_cast<size_t>(c.n_tokens * stride));
  for (float& x : q) x = static_cast<float>(rng.Normal());
  std::vector<Side> k, v;
  std::vector<float> row(static_cast<size_t>(s.head_dim));
  for (int h = 0; h < kHeads; ++h) {
    k.emplace_back(KvPart::kKeys, s.kv_type, s.head_dim, c.n_rows);
    v.emplace_back(KvPart::kValues, s.kv_type, s.head_dim, c.n_rows);
    for (int64_t r = 0; r < c.n_rows; ++r) {
      const int64_t pos = r < c.n_sink_rows ? r : c.body_pos + r - c.n_sink_rows;
      bool seen = false;  // rows that no query sees stay NaN
      for (int64_t t = 0; t < c.n_tokens && !seen; ++t) seen = Sees(c.mask, c.q_pos + t, pos);
      if (!seen) continue;
      for (Side* side : {&k.back(), &v.back()}) {
        for (float& x : row) x = static_cast<float>(rng.Normal());
        side->rows.SetRow(r, row.data());
      }
    }
    k.back().Upload(s.kv_type, s.head_dim);
    v.back().Upload(s.kv_type, s.head_dim);
  }
  const DeviceArray<float> device_q(q), out(q.size()), lse(static_cast<size_t>(c.n_tokens * lse_stride));
  std::vector<CudaPrefillHead> heads;
  for (int h = 0; h < kHeads; ++h) {
    heads.push_back({.q = device_q.data() + h * width,
                     .k = k[static_cast<size_t>(h)].device->data(),
                     .v = v[static_cast<size_t>(h)].device->data(),
                     .out = out.data() + h * width,
                     .lse = h == 0 ? lse.data() : nullptr,
                     .n_rows = c.n_rows,
                     .n_sink_rows = c.n_sink_rows,
                     .body_pos = c.body_pos,
                     .mask = c.mask});
  }
  const CudaAttentionShape shape{.group = s.group,
                                 .head_dim = s.head_dim,
                                 .q_stride = stride,
                                 .lse_stride = lse_stride,
                                 .q_pos = c.q_pos,
                                 .n_tokens = c.n_tokens,
                                 .kv_type = s.kv_type,
                                 .exact = s.math == AttentionMath::kF32,
                                 .scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim))};
  const Status status = CudaPrefillAttention(nullptr, shape, heads);
  ASSERT_TRUE(status.ok()) << status.message();
  const std::vector<float> got = out.ToHost(), got_lse = lse.ToHost();
  for (int h = 0; h < kHeads; ++h) {
    Side& key = k[static_cast<size_t>(h)];
    Side& value = v[static_cast<size_t>(h)];
    std::vector<float> want(q.size()), weight(q.size());
    std::vector<float> want_lse(static_cast<size_t>(c.n_tokens * lse_stride));
    PrefillAttention a;
    a.q = q.data() + h * width, a.q_stride = stride, a.q_pos = c.q_pos, a.n_tokens = c.n_tokens;
    a.group = s.group, a.head_dim = s.head_dim, a.k = key.rows.data(), a.v = value.rows.data();
    a.n_rows = c.n_rows, a.n_sink_rows = c.n_sink_rows, a.body_pos = c.body_pos;
    a.kv_type = s.kv_type, a.math = s.math, a.mask = c.mask, a.scale = shape.scale;
    a.out = want.data() + h * width, a.out_stride = stride;
    a.lse = want_lse.data(), a.lse_stride = lse_stride;
    ReferencePrefillAttention(a);
    const TestRows keys = key.rows.Floats(), magnitudes = value.rows.Floats(true);
    a.k = keys.data(), a.v = magnitudes.data(), a.kv_type = KvType::kF32, a.out = weight.data() + h * width;
    ReferencePrefillAttention(a);
    Guarded head_q(c.n_tokens * width, DType::kF32, 0);
    for (int64_t i = 0; i < head_q.size(); ++i) {
      head_q.Set(i, q[static_cast<size_t>(i / width * stride + h * width + i % width)]);
    }
    const Bound bound = BoundOf(s, head_q, key, value, c.n_tokens * s.group, c.n_rows);
    for (int64_t t = 0; t < c.n_tokens; ++t) {
      for (int64_t i = 0; i < width; ++i) {
        const auto at = static_cast<size_t>(t * stride + h * width + i);
        ASSERT_NEAR(got[at], want[at], bound.relative * weight[at] + bound.absolute)
            << "head " << h << " token " << t << " element " << i;
      }
      for (int g = 0; h == 0 && g < s.group; ++g) {
        const auto at = static_cast<size_t>(t * lse_stride + g);
        ASSERT_NEAR(got_lse[at], want_lse[at], bound.relative + 1e-5);
      }
    }
  }
}

TEST(CudaPrefillAttention, AgreesForAllHeadDimsGroupsAndTypes) {
  uint64_t seed = 1;
  for (const int head_dim : {8, 10, 64, 80, 128, 256}) {
    for (const int group : {1, 3, 4, 8, 17}) {
      if (head_dim > 128 && group > 4) continue;
      for (const Shape& s : TypesOf({.head_dim = head_dim, .group = group})) {
        CheckPrefill(WholeCache(s, 33, static_cast<int64_t>(3 + seed % 5), {}), seed);
        ++seed;
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(CudaPrefillAttention, AgreesForAwkwardLengths) {
  uint64_t seed = 200;
  for (const int64_t n_tokens : {1, 15, 17, 65}) {
    for (const int64_t q_pos : {0, 1, 63, 64, 130}) {
      for (const Shape& s : TypesOf({.head_dim = 64, .group = 1})) {
        CheckPrefill(WholeCache(s, q_pos, n_tokens, {}), seed++);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(CudaPrefillAttention, FollowsTheLambdaMask) {
  uint64_t seed = 300;
  for (const int64_t sink : {0, 1, 20, 70}) {
    for (const int64_t window : {1, 40, 100000}) {
      for (const int64_t q_pos : {0, 90}) {
        const int head_dim = seed % 2 == 0 ? 16 : 64;
        for (const Shape& s : TypesOf({.head_dim = head_dim, .group = 3})) {
          if (s.kv_type == KvType::kF32) continue;
          CheckPrefill(WholeCache(s, q_pos, 31, {.sink = sink, .window = window}), seed);
          CheckPrefill(SplitCache(s, q_pos, 31, {.sink = sink, .window = window}), seed++);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(CudaPrefillAttention, AtVeryLargePositions) {
  const int64_t q_pos = (int64_t{1} << 33) + 5;
  for (const Shape& s : TypesOf({.head_dim = 64, .group = 4})) {
    CheckPrefill(SplitCache(s, q_pos, 20, {.sink = 16, .window = 50}), 3);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace duo
