// Attention on the device against the softmax in double, within the bounds of docs/numerics.md. The tests run on a GPU,
// or on the CPU through tests/cuda_on_host.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "base/align.h"
#include "base/rng.h"
#include "kernels/attention_test_util.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_array_for_test.h"
#include "kernels/prefill_case_for_test.h"

namespace duo {
namespace {

using namespace attention_test;

constexpr int kProcessors = 4;

/// K and V of one head. Rows are NaN until they are set.
struct Head {
  Head(const Shape& s, int64_t n_rows)
      : k(n_rows, s.head_dim, s.kv_type, 0),
        v(n_rows, s.head_dim, s.kv_type, 0),
        bytes(KvBytes(s.kv_type, s.head_dim, n_rows)) {
    v.SetPart(KvPart::kValues);
  }
  void Upload() {
    device_k = Copy(k);
    device_v = Copy(v);
  }
  std::unique_ptr<DeviceArray<uint8_t>> Copy(const TestRows& rows) const {
    return std::make_unique<DeviceArray<uint8_t>>(std::vector<uint8_t>(rows.data(), rows.data() + bytes));
  }
  TestRows k, v;
  size_t bytes;
  std::unique_ptr<DeviceArray<uint8_t>> device_k, device_v;
};

/// Bounds of docs/numerics.md, for products of floats and for tensor cores, which round queries and weights to bf16.
struct Bound {
  double relative, absolute;
};
Bound BoundOf(const Shape& s, const Guarded& q, const Head& head, int64_t n_keys) {
  const double u = std::ldexp(1.0, -24), u16 = std::ldexp(1.0, -8);
  const bool exact = s.compute == ComputeType::kF32;
  const double largest = LargestProducts(s, q, head.k, q.size() / s.head_dim, head.k.n_rows()).largest;
  const double score = largest * ((s.head_dim + 8) * u + (exact ? 0.0 : u16));
  return {2 * score + (n_keys + 64.0) * u + (exact ? 0.0 : 2 * u16), AbsoluteBound(s, head.v, n_keys) + 1e-30};
}

using Ranges = std::vector<RowRange>;

/// Folds these rows of k and v into `state` with the reference.
void FoldReference(const Shape& s, const Guarded& q, const TestRows& k, const TestRows& v, KvType type,
                   const Ranges& ranges, State* state) {
  AttentionShape shape = ShapeOf(s);
  shape.kv_type = type;
  const DecodeHead head{.q = q.floats(), .k = k.data(), .v = v.data()};
  for (const RowRange& range : ranges) ReferenceDecodeAttention({shape, head, range, state->states()});
}

/// Checks out [group, head_dim] and lse [group] of one head.
void ExpectDecoded(const Shape& s, const Guarded& q, const Head& head, const Ranges& ranges, const float* out,
                   const float* lse) {
  State want(s), magnitude(s);
  FoldReference(s, q, head.k, head.v, s.kv_type, ranges, &want);
  FoldReference(s, q, head.k.Floats(), head.v.Floats(true), KvType::kF32, ranges, &magnitude);
  int64_t n_keys = 0;
  for (const RowRange& range : ranges) n_keys += range.end - range.begin;
  const Bound bound = BoundOf(s, q, head, n_keys);
  for (int g = 0; g < s.group; ++g) {
    const double sum = want.sum.Get(g);
    ASSERT_NEAR(lse[g], want.max.Get(g) + std::log(sum), bound.relative + 1e-5);
    for (int i = g * s.head_dim; i < (g + 1) * s.head_dim; ++i) {
      ASSERT_NEAR(out[i], want.acc.Get(i) / sum, bound.relative * magnitude.acc.Get(i) / sum + bound.absolute)
          << "query " << g << " dim " << i % s.head_dim;
    }
  }
}

/// Runs one decode step over heads with these ranges of rows. Other rows are NaN.
void CheckDecode(const Shape& s, const std::vector<Ranges>& ranges, uint64_t seed, int n_processors = kProcessors) {
  SCOPED_TRACE(Describe(s));
  Rng rng(seed);
  const auto n_heads = std::ssize(ranges);
  const int64_t width = int64_t{s.group} * s.head_dim;
  Guarded q(n_heads * width, DType::kF32, 0);
  FillNormal(&q, 1.0, &rng);
  const DeviceArray<float> device_q(std::vector<float>(q.floats(), q.floats() + q.size()));
  const DeviceArray<float> out(q.size()), lse(n_heads * s.group);
  std::vector<Head> heads;
  std::vector<DecodeHead> list;
  for (int64_t h = 0; h < n_heads; ++h) {
    const Ranges& of = ranges[h];
    Head& head = heads.emplace_back(s, of.back().end + 3);
    for (const RowRange& range : of) {
      for (int64_t r = range.begin; r < range.end; ++r) {
        SetNormalRow(&head.k, r, 1.0, &rng);
        SetNormalRow(&head.v, r, 1.0, &rng);
      }
    }
    head.Upload();
    list.push_back({.q = device_q.data() + h * width,
                    .k = head.device_k->data(),
                    .v = head.device_v->data(),
                    .out = out.data() + h * width,
                    .lse = lse.data() + h * s.group});
    std::copy(of.begin(), of.end(), list.back().ranges);
  }
  const int64_t n_floats = CudaDecodeStateFloats(MostCudaDecodePieces(n_heads, n_processors), s.group, s.head_dim);
  const DeviceArray<float> states(n_floats);
  const DeviceArray<int32_t> counters(std::vector<int32_t>(CudaDecodeCounters(n_heads, s.group), 0));
  const Status status = CudaDecodeAttention(nullptr, ShapeOf(s), list, n_processors, states.data(), counters.data());
  ASSERT_TRUE(status.ok()) << status.message();
  const std::vector<float> got = out.ToHost(), got_lse = lse.ToHost();
  for (const int32_t counter : counters.ToHost()) ASSERT_EQ(counter, 0);
  for (int64_t h = 0; h < n_heads; ++h) {
    SCOPED_TRACE("head " + std::to_string(h));
    Guarded head_q(width, DType::kF32, 0);
    for (int64_t i = 0; i < width; ++i) head_q.Set(i, q.Get(h * width + i));
    ExpectDecoded(s, head_q, heads[h], ranges[h], got.data() + h * width, got_lse.data() + h * s.group);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(CudaDecodeAttention, AgreesForAllHeadDimsGroupsAndTypes) {
  uint64_t seed = 1;
  for (const int head_dim : {8, 10, 64, 80, 128, 256, 512}) {
    for (const int group : {1, 3, 4, 8, 17}) {
      if (head_dim > 128 && group > 4) continue;  // slow on the CPU and covers nothing new
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
      CheckDecode({.head_dim = head_dim, .group = 17, .kv_type = type, .compute = ComputeType::kBF16}, {{{5, 9000}}}, 7,
                  40);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(CudaDecodeAttention, MoreHeadsThanALaunchTakes) {
  std::vector<Ranges> heads(70, {{0, 20}});
  heads[69] = {{0, 700}};
  CheckDecode({.head_dim = 8, .group = 1, .kv_type = KvType::kBF16, .compute = ComputeType::kF32}, heads, 5);
}

TEST(CudaDecodePlan, PiecesCoverEveryRangeWithinTheScratch) {
  Rng rng(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<DecodeHead> heads(1 + rng.Below(80));
    for (DecodeHead& head : heads) {
      RowRange &first = head.ranges[0], &second = head.ranges[1];
      first.begin = rng.Below(40);
      first.end = first.begin + 1 + rng.Below(rng.Below(2) == 0 ? 50 : 3000000);
      if (rng.Below(2) == 0) second.begin = first.end + 2, second.end = second.begin + rng.Below(500);
    }
    const int n_processors = 1 + rng.Below(150);
    const CudaDecodePlan plan = PlanCudaDecode(heads, n_processors);
    EXPECT_EQ(plan.rows_per_piece % 16, 0);
    int64_t total = 0;
    for (size_t h = 0; h < heads.size(); ++h) {
      int64_t pieces = 0;
      for (const RowRange& range : heads[h].ranges) {
        pieces += DivideUp(range.end - range.begin, plan.rows_per_piece);
      }
      EXPECT_EQ(plan.n_pieces[h], pieces);
      total += pieces;
    }
    EXPECT_EQ(plan.total_pieces, total);
    EXPECT_LE(total, MostCudaDecodePieces(std::ssize(heads), n_processors));
  }
}

/// Runs two heads with separate caches. Queries are token-major like activations. Only the first head asks for lse.
void CheckPrefill(const PrefillCase& c, uint64_t seed) {
  const Shape& s = c.shape;
  SCOPED_TRACE(Describe(c));
  Rng rng(seed);
  constexpr int kHeads = 2;
  const int64_t width = int64_t{s.group} * s.head_dim, stride = kHeads * width, lse_stride = kHeads * s.group;
  std::vector<float> q(c.n_tokens * stride);
  for (float& x : q) x = rng.Normal();
  const auto in_all = [&](int64_t i, int h) { return i / width * stride + h * width + i % width; };
  const DeviceArray<float> device_q(q), out(q.size()), lse(c.n_tokens * lse_stride);
  std::vector<Head> heads;
  std::vector<PrefillHead> list;
  for (int h = 0; h < kHeads; ++h) {
    Head& head = heads.emplace_back(s, c.n_rows);
    FillSeenRows(c, &head.k, &head.v, &rng);
    head.Upload();
    PrefillHead& on_device = list.emplace_back(
        HeadOf(c, device_q.data() + h * width, head.k, head.v, out.data() + h * width, h == 0 ? lse.data() : nullptr));
    on_device.k = head.device_k->data(), on_device.v = head.device_v->data();
  }
  AttentionShape shape = ShapeOf(c);
  shape.q_stride = stride, shape.lse_stride = lse_stride;
  const Status status = CudaPrefillAttention(nullptr, shape, list);
  ASSERT_TRUE(status.ok()) << status.message();
  const std::vector<float> got = out.ToHost(), got_lse = lse.ToHost();
  for (int h = 0; h < kHeads; ++h) {
    const Head& head = heads[h];
    Guarded head_q(c.n_tokens * width, DType::kF32, 0);
    for (int64_t i = 0; i < head_q.size(); ++i) head_q.Set(i, q[in_all(i, h)]);
    const PrefillReference want(c, head_q.floats(), width, head.k, head.v);
    const Bound bound = BoundOf(s, head_q, head, c.n_rows);
    for (int64_t i = 0; i < head_q.size(); ++i) {
      ASSERT_NEAR(got[in_all(i, h)], want.out[i], bound.relative * want.magnitude[i] + bound.absolute)
          << "head " << h << " token " << i / width << " element " << i % width;
    }
    for (int64_t i = 0; h == 0 && i < std::ssize(want.lse); ++i) {
      ASSERT_NEAR(got_lse[i / s.group * lse_stride + i % s.group], want.lse[i], bound.relative + 1e-5);
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

TEST(CudaPrefillAttention, LeavesOutWhatLiesBetweenSinksAndWindow) {
  uint64_t seed = 400;
  for (const int head_dim : {64, 128}) {
    for (const Shape& s : TypesOf({.head_dim = head_dim, .group = 5})) {
      CheckPrefill(WholeCache(s, 300, 33, {.sink = 3, .window = 40}), seed++);
      if (HasFatalFailure()) return;
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
