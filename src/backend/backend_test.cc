#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu_for_test.h"
#include "backend/decode_split.h"
#include "backend/meter.h"
#include "base/bf16.h"
#include "base/buffer.h"
#include "base/rng.h"
#include "kernels/cpu/vec/isa.h"
#include "kernels/weight_codes.h"

namespace duo {
namespace {

TEST(SplitDecode, PiecesAreExactlyTheRanges) {
  Rng rng(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<DecodeHead> heads(1 + rng.Below(9));
    for (DecodeHead& head : heads) {
      const auto n_ranges = static_cast<int>(1 + rng.Below(2));
      int64_t at = 0;
      for (int r = 0; r < n_ranges; ++r) {
        const auto begin = at + static_cast<int64_t>(rng.Below(50));
        at = begin + static_cast<int64_t>(1 + rng.Below(rng.Below(2) == 0 ? 40 : 40000));
        head.ranges[r] = {begin, at};
      }
    }
    for (const int threads : {1, 2, 16}) {
      const DecodeCut cut = round % 2 == 0 ? DecodeCut::kBalanced : DecodeCut::kByHead;
      const auto n_heads = std::ssize(heads), n_each = n_heads % 2 == 0 ? n_heads / 2 : n_heads;
      const std::vector<DecodePiece> pieces = SplitDecode(heads, n_each, threads, cut);
      ASSERT_LE(std::ssize(pieces), MaxDecodePieces(n_each, n_heads / n_each, threads, cut));
      size_t next = 0;
      for (int64_t h = 0; h < std::ssize(heads); ++h) {
        for (const RowRange& range : heads[h].ranges) {
          for (int64_t row = range.begin; row < range.end; ++next) {
            ASSERT_LT(next, pieces.size());
            ASSERT_EQ(pieces[next].head, h);
            ASSERT_EQ(pieces[next].rows.begin, row);
            ASSERT_GT(pieces[next].rows.end, row);
            row = pieces[next].rows.end;
          }
        }
      }
      ASSERT_EQ(next, pieces.size());
    }
  }
}

TEST(SplitDecode, CutByHeadNoOtherHeadMatters) {
  const auto head_of = [](int64_t rows) {
    DecodeHead head;
    head.ranges[0] = {0, rows};
    return head;
  };
  const std::vector<DecodeHead> heads = {head_of(9000), head_of(300), head_of(100000), head_of(40)};
  const std::vector<DecodePiece> together = SplitDecode(heads, 2, 4, DecodeCut::kByHead);
  size_t next = 0;
  for (const DecodeHead& head : heads) {
    const std::vector<DecodePiece> alone = SplitDecode({&head, 1}, 2, 4, DecodeCut::kByHead);
    for (const DecodePiece& piece : alone) {
      ASSERT_LT(next, together.size());
      EXPECT_EQ(together[next].rows.begin, piece.rows.begin);
      EXPECT_EQ(together[next].rows.end, piece.rows.end);
      ++next;
    }
  }
  EXPECT_EQ(next, together.size());
  EXPECT_GT(together.size(), heads.size());
}

TEST(Backend, RefusesWhatItCannotBe) {
  EXPECT_EQ(CreateBackend({.device = Device::kCuda, .n_threads = 1}).status().code(), StatusCode::kUnsupported);
  EXPECT_NE(CreateBackend({.device = Device::kCpu, .n_threads = -1}).status().message().find("threads"),
            std::string::npos);
  EXPECT_FALSE(CreateBackend({.device = Device::kCpu, .n_threads = 5000}).ok());
  setenv("DUO_ISA", "mmx", 1);
  const Status status = CreateBackend({.device = Device::kCpu, .n_threads = 1}).status();
  unsetenv("DUO_ISA");
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("mmx"), std::string::npos);
}

/// One product, computed with plain loops.
std::vector<double> Product(const std::vector<float>& x, const std::vector<bf16>& w, int64_t n, int64_t in,
                            int64_t out) {
  std::vector<double> y(n * out);
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < in; ++i) {
        sum += static_cast<double>(x[t * in + i]) * ToFloat(w[o * in + i]);
      }
      y[t * out + o] = sum;
    }
  }
  return y;
}

TEST(Backend, LinearGroupsAgreeForOneAndManyTokensAndThreads) {
  Rng rng(8);
  const int64_t in = 200;
  const int64_t outs[] = {33, 200};
  for (const int threads : {1, 2}) {
    auto backend = CreateBackend({.device = Device::kCpu, .n_threads = threads});
    ASSERT_TRUE(backend.ok());
    for (const int64_t n : {1, 2, 19}) {
      std::vector<float> x(n * in);
      for (float& value : x) value = static_cast<float>(rng.Normal());
      std::vector<std::vector<bf16>> weights;
      std::vector<std::vector<float>> bias, results;
      std::vector<LinearTask> tasks;
      for (const int64_t out : outs) {
        weights.emplace_back();
        for (int64_t i = 0; i < out * in; ++i) weights.back().push_back(ToBf16(static_cast<float>(rng.Normal())));
        bias.emplace_back(out, 0.5f);
        results.emplace_back(n * out, 2.0f);
      }
      for (size_t i = 0; i < 2; ++i) {
        const MatrixView view{.data = weights[i].data(), .dtype = DType::kBF16, .n_out = outs[i], .n_in = in};
        tasks.push_back({view, i == 0 ? bias[i].data() : nullptr, results[i].data(), i == 1});
      }
      ASSERT_TRUE((*backend)->Linear(ComputeType::kF32, {.x = x.data(), .n_tokens = n, .n_in = in}, tasks).ok());
      for (size_t i = 0; i < 2; ++i) {
        const std::vector<double> expected = Product(x, weights[i], n, in, outs[i]);
        for (size_t j = 0; j < expected.size(); ++j) {
          ASSERT_NEAR(results[i][j], expected[j] + (i == 0 ? 0.5 : 2.0), 1e-3) << "task " << i << " tokens " << n;
        }
      }
    }
  }
}

// Few tokens use other kernels than many. With f32 a token's result does not depend on how many tokens are in the call.
TEST(Backend, LinearOfFewTokensAgreesForAllWeightsAndComputeTypes) {
  Rng rng(9);
  const int64_t in = 320, out = 48;
  auto backend = CreateBackend({.device = Device::kCpu, .n_threads = 2});
  ASSERT_TRUE(backend.ok());
  std::vector<float> w(out * in);
  for (float& value : w) value = static_cast<float>(rng.Normal());
  std::vector<bf16> plain;
  for (const float value : w) plain.push_back(ToBf16(value));
  std::vector<int8_t> int8(w.size());
  std::vector<float> scale(out);
  for (int64_t o = 0; o < out; ++o) {
    QuantizeInt8(w.data() + o * in, in, int8.data() + o * in, scale.data() + o);
  }
  const auto aligned = [](size_t bytes) { return Buffer::Allocate(bytes).value(); };
  const Buffer int4 = aligned(out / kInt4Rows * Int4BlockBytes(in));
  for (int64_t o = 0; o < out; o += kInt4Rows) {
    QuantizeInt4Block(w.data() + o * in, kInt4Rows, in, int4.as<uint8_t>() + o / kInt4Rows * Int4BlockBytes(in));
  }
  const MatrixView views[] = {
      {.data = plain.data(), .dtype = DType::kBF16, .n_out = out, .n_in = in},
      {.data = int8.data(), .dtype = DType::kI8, .scale = scale.data(), .n_out = out, .n_in = in},
      {.data = int4.data(), .dtype = DType::kU8, .n_out = out, .n_in = in}};
  for (const MatrixView& view : views) {
    for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16, ComputeType::kInt8}) {
      if (compute == ComputeType::kInt8 && view.dtype != DType::kI8) continue;
      for (int64_t n = 2; n <= 18; ++n) {
        std::vector<float> x(n * in);
        for (float& value : x) value = static_cast<float>(rng.Normal());
        std::vector<float> together(n * out, 1.0f), alone = together;
        const LinearTask task[] = {{view, nullptr, together.data(), true}};
        ASSERT_TRUE((*backend)->Linear(compute, {.x = x.data(), .n_tokens = n, .n_in = in}, task).ok());
        for (int64_t t = 0; t < n; ++t) {
          const LinearTask single[] = {{view, nullptr, alone.data() + t * out, true}};
          ASSERT_TRUE((*backend)->Linear(compute, {.x = x.data() + t * in, .n_in = in}, single).ok());
        }
        for (size_t i = 0; i < alone.size(); ++i) {
          if (compute == ComputeType::kF32 && n <= 16) {
            ASSERT_EQ(together[i], alone[i]) << DTypeName(view.dtype) << " tokens " << n;
          }
          // Weights and inputs are about 1. Rounding one of them to bf16 changes a product by at most 2^-8 of it, and
          // the errors cancel.
          ASSERT_NEAR(together[i], alone[i], compute == ComputeType::kF32 ? 1e-3 : 0.5)
              << DTypeName(view.dtype) << " compute " << static_cast<int>(compute) << " tokens " << n;
        }
      }
    }
  }
}

TEST(Meter, CountsTheWorkSinceTheLastReset) {
  const int64_t in = 200, out = 300;
  const BackendPtr backend = CpuWith(1);
  const std::vector<float> weights(out * in, 1.0f), x(in, 1.0f);
  std::vector<float> y(out);
  const MatrixView view{.data = weights.data(), .dtype = DType::kF32, .n_out = out, .n_in = in};
  const LinearTask task[] = {{view, nullptr, y.data(), false}};
  const auto multiply = [&] { return backend->Linear(ComputeType::kF32, {.x = x.data(), .n_in = in}, task); };
  ASSERT_TRUE(multiply().ok());
  backend->meter()->ResetTimes();
  EXPECT_EQ(backend->meter()->Times().linear_s, 0);
  ASSERT_TRUE(multiply().ok());
  EXPECT_GT(backend->meter()->Times().linear_s, 0);
  EXPECT_EQ(backend->meter()->Times().attention_s, 0);
}

}  // namespace
}  // namespace duo
