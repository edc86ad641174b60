#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/dense_test_util.h"
#include "kernels/reference/dense_reference.h"

// Tolerances: docs/numerics.md, section "Dense".
namespace duo {
namespace {

using testing_util::Guarded;
using testing_util::kUnit;

constexpr int64_t kSizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 250, 1000, 4096};
constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

// Runs one suite for every implementation. Levels that the machine lacks are skipped.
class DenseTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > DetectIsa()) GTEST_SKIP() << "SKIPPED: this CPU lacks " << IsaName(GetParam());
  }
  const DenseKernels& kernels() const { return DenseKernelsFor(GetParam()); }
  Rng rng{7};
};

INSTANTIATE_TEST_SUITE_P(Levels, DenseTest,
                         testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16),
                         [](const auto& param) { return std::string(IsaName(param.param)); });

// (n/16 + 8) u sum |w x|: no kernel has fewer than 16 partial sums.
double DotTolerance(const Gemv& p, int64_t row, double start) {
  double magnitude = std::fabs(start) + (p.bias != nullptr ? std::fabs(double{p.bias[row]}) : 0.0);
  for (int64_t i = 0; i < p.n_in; ++i) {
    magnitude += std::fabs(reference::Load(p.w, p.w_type, row * p.n_in + i) * p.x[i]);
  }
  return (p.n_in / 16.0 + 8) * kUnit * magnitude;
}

TEST_P(DenseTest, GemvAgreesWithReference) {
  for (const DType type : kTypes) {
    for (const int64_t n_in : kSizes) {
      const int64_t n_out = 1 + rng.Below(11);
      for (const int variant : {0, 1, 2, 3}) {
        Guarded w(n_out * n_in, type), x(n_in, DType::kF32, 3), bias(n_out, DType::kF32), y(n_out, DType::kF32);
        w.Fill(rng), x.Fill(rng), bias.Fill(rng);
        Gemv p{.w = w.data(), .w_type = type, .n_in = n_in, .row_end = n_out, .x = x.f32(), .y = y.f32()};
        p.bias = (variant & 1) != 0 ? bias.f32() : nullptr;
        p.accumulate = variant >> 1;
        if (p.accumulate != 0) y.Fill(rng);  // otherwise y is NaN, and none of it may survive
        const std::vector<float> before = y.Floats();
        std::vector<float> expected = before;
        Gemv oracle = p;
        oracle.y = expected.data();
        reference::GemvRows(oracle);
        kernels().gemv(p);
        for (int64_t o = 0; o < n_out; ++o) {
          const double start = p.accumulate != 0 ? before[o] : 0.0;
          ASSERT_NEAR(p.y[o], expected[o], DotTolerance(p, o, start))
              << DTypeName(type) << " n_in " << n_in << " row " << o << " of " << n_out << " variant " << variant;
        }
        ASSERT_TRUE(y.GuardsIntact());
      }
    }
  }
}

TEST_P(DenseTest, GemvDoesNotDependOnHowRowsAreSplit) {
  for (const DType type : kTypes) {
    const int64_t n_in = 333, n_out = 61;
    Guarded w(n_out * n_in, type), x(n_in, DType::kF32), y(n_out, DType::kF32);
    w.Fill(rng), x.Fill(rng);
    Gemv p{.w = w.data(), .w_type = type, .n_in = n_in, .row_end = n_out, .x = x.f32(), .y = y.f32()};
    kernels().gemv(p);
    const std::vector<float> whole = y.Floats();
    for (const int64_t rows : {1, 2, 3, 8, 60}) {
      for (const int threads : {1, 2}) {
        std::fill_n(y.f32(), n_out, NAN);
        ParallelFor(threads, (n_out + rows - 1) / rows, [&](int64_t task, int) {
          Gemv part = p;
          part.row_begin = task * rows;
          part.row_end = std::min(n_out, part.row_begin + rows);
          kernels().gemv(part);
        });
        EXPECT_EQ(std::memcmp(whole.data(), y.f32(), whole.size() * sizeof(float)), 0)
            << DTypeName(type) << ", " << rows << " rows at a time";
      }
    }
  }
}

TEST_P(DenseTest, GemvOfSeveralTokensIsThatOfEachAlone) {
  for (const DType type : kTypes) {
    for (const int64_t n_in : {1, 31, 64, 333}) {
      for (const int64_t n_tokens : {2, 3, 4, 5, 7, 8, 16}) {
        const int64_t n_out = 5, y_stride = n_out + 3;
        Guarded w(n_out * n_in, type), x(n_tokens * n_in, DType::kF32), bias(n_out, DType::kF32);
        Guarded y(n_tokens * y_stride, DType::kF32);
        w.Fill(rng), x.Fill(rng), bias.Fill(rng), y.Fill(rng);
        std::vector<float> expected = y.Floats();
        Gemv p{.w = w.data(), .w_type = type, .n_in = n_in, .row_end = n_out, .bias = bias.f32(), .accumulate = 1};
        for (int64_t t = 0; t < n_tokens; ++t) {
          p.x = x.f32() + t * n_in;
          p.y = expected.data() + t * y_stride;
          kernels().gemv(p);
        }
        p.x = x.f32();
        p.n_tokens = n_tokens;
        p.y = y.f32();
        p.y_stride = y_stride;
        kernels().gemv(p);
        ASSERT_EQ(std::memcmp(expected.data(), y.f32(), expected.size() * sizeof(float)), 0)
            << DTypeName(type) << " n_in " << n_in << " tokens " << n_tokens;
        ASSERT_TRUE(y.GuardsIntact());
      }
    }
  }
}

TEST_P(DenseTest, GemvTouchesOnlyItsRows) {
  Guarded w(10 * 40, DType::kBF16), x(40, DType::kF32), y(10, DType::kF32);
  w.Fill(rng), x.Fill(rng), y.Fill(rng);
  const std::vector<float> before = y.Floats();
  kernels().gemv({.w = w.data(), .n_in = 40, .row_begin = 3, .row_end = 6, .x = x.f32(), .y = y.f32()});
  for (int o = 0; o < 10; ++o) EXPECT_EQ(y.f32()[o] == before[o], o < 3 || o >= 6) << o;
  kernels().gemv({.w = w.data(), .n_in = 40, .row_begin = 4, .row_end = 4, .x = x.f32(), .y = y.f32()});
}

// ((n/32 + 8)/2 + 4) u relative: the root halves the error of the sum.
TEST_P(DenseTest, RmsNormAgreesWithReference) {
  for (const int64_t dim : kSizes) {
    const int64_t n_rows = 3, stride = dim + 5;
    Guarded x(n_rows * stride, DType::kF32), weight(dim, DType::kF32), out(n_rows * stride, DType::kF32, 2);
    x.Fill(rng, 3.0), weight.Fill(rng);
    RmsNorm p{.x = x.f32(), .x_stride = stride, .weight = weight.f32(), .n_rows = n_rows, .dim = dim};
    p.out_stride = stride;
    std::vector<float> expected(n_rows * stride);
    p.out = expected.data();
    reference::RmsNormRows(p);
    p.out = out.f32();
    kernels().rms_norm(p);
    const double relative = ((dim / 32.0 + 8) / 2 + 4) * kUnit;
    for (int64_t r = 0; r < n_rows; ++r) {
      for (int64_t i = 0; i < stride; ++i) {
        const float got = out.f32()[r * stride + i], want = expected[r * stride + i];
        if (i < dim) {
          ASSERT_NEAR(got, want, relative * std::fabs(want)) << "dim " << dim;
        } else {
          ASSERT_TRUE(std::isnan(got)) << "between rows, dim " << dim;
        }
      }
    }
    ASSERT_TRUE(out.GuardsIntact());
    const std::vector<float> apart = out.Floats();
    p.out = x.f32();
    kernels().rms_norm(p);
    for (int64_t i = 0; i < dim; ++i) ASSERT_EQ(x.f32()[i], apart[i]) << "in place";
  }
}

TEST_P(DenseTest, RmsNormOfZerosIsZero) {
  std::vector<float> x(33, 0.0f), weight(33, 2.0f);
  kernels().rms_norm({.x = x.data(), .weight = weight.data(), .n_rows = 1, .dim = 33, .out = x.data()});
  for (const float v : x) EXPECT_EQ(v, 0.0f);
}

// 3 u (|x c| + |y s|)
TEST_P(DenseTest, RopeAgreesWithReference) {
  for (const int head_dim : {2, 8, 20, 32, 64, 80, 128, 256}) {
    const int64_t n_tokens = 3, n_heads = 2, stride = n_heads * head_dim + 3, half = head_dim / 2;
    Guarded x(n_tokens * stride, DType::kF32), cos(n_tokens * half, DType::kF32), sin(n_tokens * half, DType::kF32);
    x.Fill(rng);
    for (int64_t i = 0; i < n_tokens * half; ++i) {
      const double angle = rng.Uniform() * 1000;
      cos.Set(i, std::cos(angle)), sin.Set(i, std::sin(angle));
    }
    const std::vector<float> before = x.Floats();
    std::vector<float> expected = before;
    Rope p{.x = expected.data(), .x_stride = stride, .n_tokens = n_tokens, .n_heads = static_cast<int>(n_heads)};
    p.head_dim = head_dim, p.cos = cos.f32(), p.sin = sin.f32();
    reference::RopeTokens(p);
    p.x = x.f32();
    kernels().rope(p);
    for (int64_t i = 0; i < n_tokens * stride; ++i) {
      const int64_t in_token = i % stride, d = in_token % head_dim;
      if (in_token >= n_heads * head_dim) {
        ASSERT_EQ(x.f32()[i], before[i]) << "between tokens";
        continue;
      }
      const int64_t pair = d < half ? i + half : i - half;
      ASSERT_NEAR(x.f32()[i], expected[i], 3 * kUnit * (std::fabs(before[i]) + std::fabs(before[pair])))
          << "head_dim " << head_dim << " element " << i;
    }
    ASSERT_TRUE(x.GuardsIntact());
  }
}

// 8 u relative. Where exp(-gate) overflows the result is 0, with an error of at most 2^-121 |up|.
void ExpectSwiGlu(const std::vector<float>& gate, const std::vector<float>& up, const float* got) {
  std::vector<float> want(gate.size());
  reference::SwiGluRange({.gate = gate.data(), .up = up.data(), .n = std::ssize(gate), .out = want.data()});
  for (size_t i = 0; i < gate.size(); ++i) {
    const double tolerance = 8 * kUnit * std::fabs(want[i]) + 0x1p-121 * std::fabs(up[i]) + 0x1p-149;
    ASSERT_NEAR(got[i], want[i], tolerance) << "gate " << gate[i] << " up " << up[i];
  }
}

TEST_P(DenseTest, SwiGluAgreesWithReference) {
  for (const int64_t n : kSizes) {
    Guarded gate(n, DType::kF32), up(n, DType::kF32, 2), out(n, DType::kF32, 3);
    gate.Fill(rng, 4.0), up.Fill(rng);
    SwiGlu p{.gate = gate.f32(), .up = up.f32(), .n = n, .out = out.f32()};
    kernels().swiglu(p);
    ExpectSwiGlu(gate.Floats(), up.Floats(), out.f32());
    ASSERT_TRUE(out.GuardsIntact());
    p.out = up.f32();
    kernels().swiglu(p);
    ASSERT_EQ(std::memcmp(up.f32(), out.f32(), n * sizeof(float)), 0) << "in place";
  }
}

TEST_P(DenseTest, SwiGluIsAccurateOverTheWholeRange) {
  std::vector<float> gate;
  for (double g = -110; g < 110; g += 0.00137) gate.push_back(g);
  for (const double g : {0.0, -0.0, 1e-30, -1e-30, 1e-8, -88.72, -88.73, -87.33, 3e38, -3e38, 1e4, -1e4}) {
    gate.push_back(g);
  }
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> out(gate.size());
  kernels().swiglu({.gate = gate.data(), .up = up.data(), .n = std::ssize(gate), .out = out.data()});
  ExpectSwiGlu(gate, up, out.data());
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const float special[] = {nan, inf}, ones[] = {1.0f, 1.0f};
  float got[2];
  kernels().swiglu({.gate = special, .up = ones, .n = 2, .out = got});
  EXPECT_TRUE(std::isnan(got[0]));
  EXPECT_EQ(got[1], inf);
}

TEST_P(DenseTest, AddIsExactlyRoundedAddition) {
  for (const int64_t n : kSizes) {
    Guarded x(n, DType::kF32), y(n, DType::kF32, 2);
    x.Fill(rng), y.Fill(rng);
    std::vector<float> expected = x.Floats();
    for (int64_t i = 0; i < n; ++i) expected[i] += y.f32()[i];
    kernels().add(x.f32(), y.f32(), n);
    EXPECT_EQ(x.Floats(), expected);
    EXPECT_TRUE(x.GuardsIntact());
  }
}

TEST_P(DenseTest, RoundingToBf16IsThatOfBase) {
  std::vector<uint32_t> patterns = {0u,          0x80000000u, 1u,          0x7f800000u, 0xff800000u, 0x7f800001u,
                                    0xffffffffu, 0x7f7fffffu, 0x3f808000u, 0x3f818000u, 0x00008000u, 0x007fffffu};
  while (patterns.size() < 5000) patterns.push_back(rng.Next());
  for (const int64_t n : {int64_t{1}, int64_t{7}, int64_t{9}, int64_t{33}, std::ssize(patterns)}) {
    Guarded x(n, DType::kF32), narrow(n, DType::kBF16), rounded(n, DType::kF32, 2);
    std::memcpy(x.data(), patterns.data(), n * sizeof(float));
    kernels().f32_to_bf16(x.f32(), narrow.b16(), n);
    kernels().round_to_bf16(x.f32(), rounded.f32(), n);
    for (int64_t i = 0; i < n; ++i) {
      const uint16_t want = ToBf16(x.f32()[i]).bits;
      uint32_t got;
      std::memcpy(&got, rounded.f32() + i, sizeof got);
      ASSERT_EQ(narrow.b16()[i].bits, want) << "pattern " << patterns[i];
      ASSERT_EQ(got, static_cast<uint32_t>(want) << 16);
    }
    ASSERT_TRUE(narrow.GuardsIntact());
    ASSERT_TRUE(rounded.GuardsIntact());
    kernels().round_to_bf16(x.f32(), x.f32(), n);
    ASSERT_EQ(std::memcmp(x.f32(), rounded.f32(), n * sizeof(float)), 0) << "in place";
  }
}

TEST_P(DenseTest, WideningIsExactForEveryValue) {
  constexpr int64_t kAll = 0x10000;
  for (const DType type : {DType::kBF16, DType::kF16}) {
    for (const int64_t n : {int64_t{5}, int64_t{19}, kAll}) {
      Guarded x(n, type), out(n, DType::kF32);
      for (int64_t i = 0; i < n; ++i) x.b16()[i].bits = i;
      kernels().widen(x.data(), type, out.f32(), n);
      for (int64_t i = 0; i < n; ++i) {
        const uint16_t bits = i;
        const float want = type == DType::kBF16 ? ToFloat(bf16{bits}) : ToFloat(f16{bits});
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(out.f32()[i])) << DTypeName(type) << " bits " << i;
        } else {
          ASSERT_EQ(std::memcmp(&want, out.f32() + i, sizeof want), 0) << DTypeName(type) << " bits " << i;
        }
      }
      ASSERT_TRUE(out.GuardsIntact());
    }
  }
  Guarded x(19, DType::kF32), out(19, DType::kF32, 3);
  x.Fill(rng);
  kernels().widen(x.data(), DType::kF32, out.f32(), 19);
  EXPECT_EQ(x.Floats(), out.Floats());
  EXPECT_TRUE(out.GuardsIntact());
}

TEST_P(DenseTest, ReadSumReadsEveryByteOnce) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{63}, size_t{511}, size_t{512}, size_t{1100}, size_t{2048}}) {
    std::vector<uint8_t> x(bytes + 1, 0);  // read from an odd address
    EXPECT_EQ(kernels().read_sum(x.data() + 1, bytes), 0.0);
    for (size_t i = 1; i <= bytes; ++i) {
      x[i] = 1;
      const double sum = kernels().read_sum(x.data() + 1, bytes);
      // The byte is counted once, at one of the eight places of a 64-bit word.
      ASSERT_GT(sum, 0.0) << "byte " << i - 1 << " of " << bytes;
      ASSERT_EQ(std::log2(sum), 8 * std::floor(std::log2(sum) / 8)) << "byte " << i - 1 << " of " << bytes;
      x[i] = 0;
    }
  }
}

}  // namespace
}  // namespace duo
