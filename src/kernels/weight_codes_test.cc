// Quantised weights: the error of quantising, and products with them on every instruction set against the reference.
#include "kernels/weight_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/buffer.h"
#include "base/rng.h"
#include "kernels/cpu/dense/gemm.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/dense_test_util.h"
#include "kernels/int4_blocks_for_test.h"
#include "kernels/reference/dense_reference.h"

// Tolerances: docs/numerics.md, section "Quantised weights".
namespace duo {
namespace {

using testing_util::Int4Blocks;
using testing_util::kUnit;
using testing_util::Normal;

TEST(WeightCodes, Int8IsTheNearestOf255Numbers) {
  Rng rng(1);
  for (const int64_t n : {1, 7, 64, 1000}) {
    const std::vector<float> x = Normal(&rng, n, 3);
    std::vector<int8_t> codes(x.size());
    float scale;
    QuantizeInt8(x.data(), n, codes.data(), &scale);
    float most = 0;
    for (const float value : x) most = std::max(most, std::fabs(value));
    EXPECT_FLOAT_EQ(scale, most / 127);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_GE(codes[i], -127);
      ASSERT_NEAR(scale * static_cast<float>(codes[i]), x[i], 0.50001f * scale);
    }
  }
  std::vector<int8_t> codes(4, 1);
  float scale = 1;
  QuantizeInt8(std::vector<float>(4, 0.0f).data(), 4, codes.data(), &scale);
  EXPECT_EQ(scale, 0);
  EXPECT_EQ(codes, std::vector<int8_t>(4, 0));
  const std::vector<float> bad = {1, NAN, 2, 3};
  QuantizeInt8(bad.data(), 4, codes.data(), &scale);
  EXPECT_TRUE(std::isnan(scale));
}

TEST(WeightCodes, Int4IsCloseToItsGroup) {
  Rng rng(2);
  for (const int64_t n_in : {32, 64, 80, 200}) {
    const int64_t n_out = 37;
    const std::vector<float> w = Normal(&rng, n_out * n_in);
    const Int4Blocks blocks(w, n_out, n_in);
    double error = 0, energy = 0;
    for (int64_t r = 0; r < n_out; ++r) {
      for (int64_t g = 0; g < n_in; g += 32) {
        double most = 0;
        for (int64_t i = g; i < std::min(n_in, g + 32); ++i) most = std::max(most, std::fabs(double{w[r * n_in + i]}));
        for (int64_t i = g; i < std::min(n_in, g + 32); ++i) {
          const double off = w[r * n_in + i] - blocks.At(r, i);
          ASSERT_LE(std::fabs(off), most / 8 * 1.7) << "at most the share of the largest that the scale gives up";
          error += off * off;
          energy += double{w[r * n_in + i]} * w[r * n_in + i];
        }
      }
    }
    EXPECT_LT(std::sqrt(error / energy), 0.085) << n_in << ": normal numbers, 4 bits, groups of 32";
  }
  const Int4Blocks zeros(std::vector<float>(16 * 64, 0.0f), 16, 64);
  for (const float x : zeros.Floats()) EXPECT_EQ(x, 0.0f);
}

class QuantizedProducts : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > DetectIsa()) GTEST_SKIP() << "SKIPPED: this CPU lacks " << IsaName(GetParam());
  }
  const DenseKernels& kernels() const { return DenseKernelsFor(GetParam()); }
  Rng rng{7};
};

INSTANTIATE_TEST_SUITE_P(Levels, QuantizedProducts,
                         testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16),
                         [](const auto& param) { return std::string(IsaName(param.param)); });

TEST_P(QuantizedProducts, GemvOfInt8AgreesWithReference) {
  for (const int64_t n_in : {1, 7, 16, 33, 64, 130, 1000, 4096}) {
    const int64_t n_out = 1 + rng.Below(11);
    std::vector<int8_t> w(n_out * n_in);
    for (int8_t& code : w) code = static_cast<int>(rng.Below(255)) - 127;
    const std::vector<float> scale = Normal(&rng, n_out), x = Normal(&rng, n_in), bias = Normal(&rng, n_out);
    std::vector<float> y = Normal(&rng, n_out);
    for (const int accumulate : {0, 1}) {
      std::vector<float> got = y, want = y;
      Gemv p{
          .w = w.data(), .w_type = DType::kI8, .w_scale = scale.data(), .n_in = n_in, .row_end = n_out, .x = x.data()};
      p.bias = bias.data(), p.accumulate = accumulate;
      p.y = got.data(), kernels().gemv(p);
      p.y = want.data(), reference::GemvRows(p);
      for (int64_t o = 0; o < n_out; ++o) {
        double magnitude = 0;
        for (int64_t i = 0; i < n_in; ++i) magnitude += std::fabs(double{scale[o]} * w[o * n_in + i] * x[i]);
        ASSERT_NEAR(got[o], want[o], (n_in / 16.0 + 10) * kUnit * (magnitude + std::fabs(bias[o]) + std::fabs(y[o])));
      }
    }
  }
}

TEST_P(QuantizedProducts, GemvOfInt8ForFewTokensAgreesWithReference) {
  if (kernels().gemv8.run == nullptr) GTEST_SKIP() << "SKIPPED: gemv8 is Gemv with " << IsaName(GetParam());
  for (const int64_t n_in : {1, 7, 31, 64, 130, 256, 257, 1000, 4096}) {
    for (const int64_t n_tokens : {1, 2, 3, 4, 5, 8, 11}) {
      const int64_t n_out = 1 + rng.Below(7), y_stride = n_out + 2;
      std::vector<int8_t> w(n_out * n_in);
      for (int8_t& code : w) code = static_cast<int>(rng.Below(255)) - 127;
      std::vector<float> x = Normal(&rng, n_tokens * n_in);
      x[0] = 1000;  // affects the rounding of its own group only
      const std::vector<float> scale(n_out, 0.25f), bias = Normal(&rng, n_out);
      const std::vector<float> before = Normal(&rng, n_tokens * y_stride);
      const size_t bytes = Gemv8PreparedBytes(n_in);
      const Buffer prepared = Buffer::Allocate(bytes * n_tokens).value();
      std::memset(prepared.data(), 0xff, prepared.bytes());
      for (int64_t t = 0; t < n_tokens; ++t) {
        kernels().gemv8.prepare(x.data() + t * n_in, n_in, prepared.as<uint8_t>() + t * bytes);
      }
      std::vector<float> got = before, want = before;
      kernels().gemv8.run({.w = w.data(),
                           .w_scale = scale.data(),
                           .n_in = n_in,
                           .row_end = n_out,
                           .x = prepared.data(),
                           .n_tokens = n_tokens,
                           .bias = bias.data(),
                           .y = got.data(),
                           .y_stride = y_stride,
                           .accumulate = 1});
      for (int64_t t = 0; t < n_tokens; ++t) {
        reference::GemvRows({.w = w.data(),
                             .w_type = DType::kI8,
                             .w_scale = scale.data(),
                             .n_in = n_in,
                             .row_end = n_out,
                             .x = x.data() + t * n_in,
                             .bias = bias.data(),
                             .y = want.data() + t * y_stride,
                             .accumulate = 1});
      }
      for (int64_t at = 0; at < n_tokens * y_stride; ++at) {
        const int64_t t = at / y_stride, o = at % y_stride;
        if (o >= n_out) {
          ASSERT_EQ(got[at], before[at]) << "after token " << t;
          continue;
        }
        double bound = 0, magnitude = std::fabs(bias[o]) + std::fabs(before[at]);
        for (int64_t g = 0; g < n_in; g += kGemv8Group) {
          double most = 0, weights = 0;
          for (int64_t i = g; i < std::min(n_in, g + kGemv8Group); ++i) {
            const double value = x[t * n_in + i];
            const double weight = 0.25 * w[o * n_in + i];
            most = std::max(most, std::fabs(value));
            weights += std::fabs(weight);
            magnitude += std::fabs(weight * value);
          }
          bound += most / 32766 * weights;
        }
        ASSERT_NEAR(got[at], want[at], bound + (n_in / 256.0 + 40) * kUnit * magnitude)
            << n_in << " token " << t << " of " << n_tokens << " row " << o;
      }
    }
  }
}

TEST_P(QuantizedProducts, GemvOfInt4AgreesWithReference) {
  for (const int64_t n_in : {8, 32, 33, 64, 100, 320, 4096}) {
    for (const int64_t n_out : {1, 15, 16, 33, 100}) {
      const Int4Blocks w(Normal(&rng, n_out * n_in), n_out, n_in);
      const std::vector<float> floats = w.Floats(), x = Normal(&rng, n_in), bias = Normal(&rng, n_out);
      for (const bool exact : {false, true}) {
        const Gemv4Kernels& gemv4 = exact ? kernels().gemv4_exact : kernels().gemv4;
        alignas(64) static uint8_t prepared[Gemv4PreparedBytes(4096)];
        std::memset(prepared, 0xff, sizeof prepared);
        gemv4.prepare(x.data(), n_in, prepared);
        const std::vector<float> before = Normal(&rng, n_out);
        std::vector<float> got = before, want = before;
        Gemv oracle{.w = floats.data(), .w_type = DType::kF32, .n_in = n_in, .row_end = n_out, .x = x.data()};
        oracle.bias = bias.data(), oracle.y = want.data(), oracle.accumulate = exact ? 1 : 0;
        reference::GemvRows(oracle);
        // Two calls, cut at a multiple of 16.
        for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, std::min<int64_t>(n_out, 48)}, {48, n_out}}) {
          if (begin >= end) continue;
          gemv4.run({.w = w.bytes.data(),
                     .n_in = n_in,
                     .row_begin = begin,
                     .row_end = end,
                     .x = prepared,
                     .bias = bias.data(),
                     .y = got.data(),
                     .accumulate = oracle.accumulate});
        }
        for (int64_t o = 0; o < n_out; ++o) {
          double magnitude = std::fabs(bias[o]) + std::fabs(before[o]), rounded = 0;
          for (int64_t g = 0; g < n_in; g += 32) {
            double most = 0, weights = 0;
            for (int64_t i = g; i < std::min(n_in, g + 32); ++i) {
              most = std::max(most, std::fabs(double{x[i]}));
              weights += std::fabs(double{floats[o * n_in + i]});
              magnitude += std::fabs(double{floats[o * n_in + i]} * x[i]) + std::fabs(8.0 * w.At(o, i) * x[i]);
            }
            rounded += most / 32766 * weights;
          }
          const double bound = (n_in / 16.0 + 16) * kUnit * magnitude + (exact ? 0 : rounded);
          ASSERT_NEAR(got[o], want[o], bound) << n_in << " " << n_out << " row " << o << (exact ? " exact" : "");
        }
      }
    }
  }
}

// Inputs that 15 bits hold exactly leave only the rounding errors of float.
TEST_P(QuantizedProducts, GemvOfInt4IsExactForInputsOf15Bits) {
  const int64_t n_in = 320, n_out = 40;
  const Int4Blocks w(Normal(&rng, n_out * n_in), n_out, n_in);
  const std::vector<float> floats = w.Floats();
  std::vector<float> x(n_in);
  for (int64_t i = 0; i < n_in; ++i) {
    x[i] = i % 32 == 5 ? 16383.0f : static_cast<int>(rng.Below(32767)) - 16383.0f;
  }
  alignas(64) static uint8_t prepared[Gemv4PreparedBytes(320)];
  kernels().gemv4.prepare(x.data(), n_in, prepared);
  std::vector<float> got(n_out), want(n_out);
  Gemv oracle{.w = floats.data(), .w_type = DType::kF32, .n_in = n_in, .row_end = n_out, .x = x.data()};
  oracle.y = want.data();
  reference::GemvRows(oracle);
  kernels().gemv4.run({.w = w.bytes.data(), .n_in = n_in, .row_end = n_out, .x = prepared, .y = got.data()});
  for (int64_t o = 0; o < n_out; ++o) {
    double magnitude = 0;
    for (int64_t i = 0; i < n_in; ++i) magnitude += std::fabs(double{floats[o * n_in + i]} * x[i]);
    ASSERT_NEAR(got[o], want[o], 40 * kUnit * magnitude) << o;
  }
}

TEST_P(QuantizedProducts, ANanInTheInputReachesEveryOutput) {
  const Int4Blocks w(Normal(&rng, 20 * 64), 20, 64);
  std::vector<float> x = Normal(&rng, 64), y(20);
  x[40] = NAN;
  alignas(64) static uint8_t prepared[Gemv4PreparedBytes(64)];
  kernels().gemv4.prepare(x.data(), 64, prepared);
  kernels().gemv4.run({.w = w.bytes.data(), .n_in = 64, .row_end = 20, .x = prepared, .y = y.data()});
  for (const float value : y) EXPECT_TRUE(std::isnan(value));
  if (kernels().gemv8.run == nullptr) return;
  alignas(64) static uint8_t prepared8[Gemv8PreparedBytes(64)];
  kernels().gemv8.prepare(x.data(), 64, prepared8);
  const std::vector<int8_t> codes(20 * 64, 1);
  const std::vector<float> scale(20, 1.0f);
  std::fill(y.begin(), y.end(), 0.0f);
  kernels().gemv8.run(
      {.w = codes.data(), .w_scale = scale.data(), .n_in = 64, .row_end = 20, .x = prepared8, .y = y.data()});
  for (const float value : y) EXPECT_TRUE(std::isnan(value));
}

TEST_P(QuantizedProducts, UnpackingIsExact) {
  const int64_t n_in = 200, n_out = 20;
  const Int4Blocks w(Normal(&rng, n_out * n_in), n_out, n_in);
  for (const int64_t row : {0, 15, 16, 19}) {
    for (const int64_t first : {0, 64, 128}) {
      for (const int64_t n : {1, 31, 32, 33, 72}) {
        std::vector<float> out(n + 1, -7.0f);
        kernels().unpack4(w.bytes.data() + row / 16 * Int4BlockBytes(n_in), row % 16, first, n, out.data());
        for (int64_t i = 0; i < n && first + i < n_in; ++i) ASSERT_EQ(out[i], w.At(row, first + i));
        ASSERT_EQ(out.back(), -7.0f);
      }
    }
  }
}

TEST_P(QuantizedProducts, GemmAgreesWithReference) {
  GemmRunner runner(2, GetParam());
  for (const DType w_type : {DType::kI8, DType::kU8}) {
    for (const DType x_type : {DType::kF32, DType::kBF16, DType::kI8}) {
      if (x_type == DType::kI8 && (w_type != DType::kI8 || GetParam() < Isa::kAvx512Vnni)) continue;
      for (const int64_t n_tokens : {2, 17, 70}) {
        for (const auto& [n_out, n_in] : {std::pair<int64_t, int64_t>{5, 9}, {70, 130}, {100, 64}}) {
          const std::vector<float> plain = Normal(&rng, n_out * n_in), x = Normal(&rng, n_tokens * n_in);
          const std::vector<float> bias = Normal(&rng, n_out);
          const Int4Blocks blocks(plain, n_out, n_in);
          std::vector<int8_t> codes(plain.size()), x8(x.size());
          std::vector<float> scale(n_out), x_scale(n_tokens), w_floats = blocks.Floats(), x_floats = x;
          std::vector<bf16> x16(x.size());
          for (int64_t o = 0; o < n_out && w_type == DType::kI8; ++o) {
            QuantizeInt8(plain.data() + o * n_in, n_in, codes.data() + o * n_in, &scale[o]);
            for (int64_t i = 0; i < n_in; ++i) w_floats[o * n_in + i] = scale[o] * codes[o * n_in + i];
          }
          for (int64_t t = 0; t < n_tokens; ++t) {
            QuantizeInt8(x.data() + t * n_in, n_in, x8.data() + t * n_in, &x_scale[t]);
            for (int64_t i = t * n_in; i < (t + 1) * n_in; ++i) {
              x16[i] = ToBf16(x[i]);
              if (x_type == DType::kI8) x_floats[i] = x_scale[t] * x8[i];
              if (x_type == DType::kBF16) x_floats[i] = ToFloat(x16[i]);
            }
          }
          for (const bool accumulate : {false, true}) {
            const std::vector<float> before = Normal(&rng, n_tokens * n_out);
            std::vector<float> got = before, want = before;
            Gemm g{.x = x_type == DType::kI8     ? static_cast<const void*>(x8.data())
                        : x_type == DType::kBF16 ? static_cast<const void*>(x16.data())
                                                 : x.data(),
                   .x_type = x_type,
                   .x_scale = x_scale.data(),
                   .n_tokens = n_tokens,
                   .n_in = n_in};
            g.w = w_type == DType::kI8 ? static_cast<const void*>(codes.data()) : blocks.bytes.data();
            g.w_type = w_type, g.w_scale = w_type == DType::kI8 ? scale.data() : nullptr, g.n_out = n_out;
            g.bias = bias.data(), g.out = got.data(), g.out_stride = n_out, g.accumulate = accumulate;
            const Status status = runner.Run(g);
            ASSERT_TRUE(status.ok()) << status.message();
            Gemm oracle = g;
            oracle.x = x_floats.data(), oracle.x_type = DType::kF32;
            oracle.w = w_floats.data(), oracle.w_type = DType::kF32, oracle.out = want.data();
            reference::GemmAll(oracle);
            // Weights become bf16 numbers where x is bf16 and the CPU has bf16 products.
            const double w_rounding =
                x_type == DType::kBF16 && GetParam() >= Isa::kAvx512Bf16 ? std::ldexp(1.0, -8) : 0.0;
            for (int64_t t = 0; t < n_tokens; ++t) {
              for (int64_t o = 0; o < n_out; ++o) {
                double sum = std::fabs(bias[o]) + std::fabs(before[t * n_out + o]), products = 0;
                for (int64_t i = 0; i < n_in; ++i) {
                  products += std::fabs(double{x_floats[t * n_in + i]} * w_floats[o * n_in + i]);
                }
                ASSERT_NEAR(got[t * n_out + o], want[t * n_out + o],
                            (n_in + 8.0) * kUnit * (sum + products) + w_rounding * products)
                    << DTypeName(x_type) << " " << DTypeName(w_type) << " " << n_tokens << " " << n_out << " " << n_in;
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace duo
