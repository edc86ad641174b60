// Dense CUDA kernels against the references, with the bounds of docs/numerics.md. The tests run on a GPU, or on the CPU
// through tests/cuda_on_host.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/device_array_for_test.h"
#include "kernels/cuda/matmul.h"
#include "kernels/dense_test_util.h"
#include "kernels/int4_blocks_for_test.h"
#include "kernels/reference/dense_reference.h"
#include "kernels/weight_codes.h"

namespace duo {
namespace {

using testing_util::Guarded;
using testing_util::Int4Blocks;
using testing_util::kUnit;
using testing_util::Normal;

/// A matrix of any type on the device, and the numbers that it represents.
struct TestMatrix {
  TestMatrix(DType type, int64_t n_out, int64_t n_in, Rng* rng) {
    const std::vector<float> w = Normal(rng, n_out * n_in);
    if (type == DType::kU8) {
      const Int4Blocks blocks(w, n_out, n_in);
      data.emplace(blocks.bytes);
      exact = blocks.Floats();
    } else {
      Guarded numbers(n_out * n_in, type);
      std::vector<float> scale(n_out, 1.0f);
      for (int64_t i = 0; i < n_out * n_in; ++i) numbers.Set(i, w[i]);
      for (int64_t row = 0; row < n_out && type == DType::kI8; ++row) {
        QuantizeInt8(w.data() + row * n_in, n_in, static_cast<int8_t*>(numbers.data()) + row * n_in, &scale[row]);
      }
      const auto* from = static_cast<const uint8_t*>(numbers.data());
      data.emplace(std::vector<uint8_t>(from, from + w.size() * DTypeBytes(type)));
      if (type == DType::kI8) scales.emplace(scale);
      for (int64_t i = 0; i < n_out * n_in; ++i) {
        exact.push_back(static_cast<float>(reference::Load(from, type, i)) * scale[i / n_in]);
      }
    }
    view = {.data = data->data(),
            .dtype = type,
            .scale = scales.has_value() ? scales->data() : nullptr,
            .n_out = n_out,
            .n_in = n_in};
  }

  std::vector<float> exact;  // [n_out, n_in]
  std::optional<DeviceArray<uint8_t>> data;
  std::optional<DeviceArray<float>> scales;
  MatrixView view;
};

const DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kI8, DType::kU8};

TEST(CudaDense, EmbedTakesRows) {
  Rng rng(1);
  for (const DType type : kTypes) {
    if (type == DType::kU8) continue;
    const TestMatrix table(type, 9, 37, &rng);
    const std::vector<int32_t> ids = {3, 0, 8, 3};
    const DeviceArray<int32_t> device_ids(ids);
    const DeviceArray<float> out(ids.size() * 37);
    ASSERT_TRUE(CudaEmbed(nullptr, table.view, device_ids.data(), 4, out.data()).ok());
    const std::vector<float> got = out.ToHost();
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], table.exact[ids[i / 37] * 37 + i % 37]) << DTypeName(type);
    }
  }
}

TEST(CudaDense, RmsNormAgreesInPlaceToo) {
  Rng rng(2);
  for (const int64_t dim : {1, 31, 64, 257, 1000}) {
    const std::vector<float> x = Normal(&rng, 3 * dim), weight = Normal(&rng, dim);
    std::vector<float> want(x.size());
    reference::RmsNormRows({.x = x.data(),
                            .x_stride = dim,
                            .weight = weight.data(),
                            .eps = 1e-5f,
                            .n_rows = 3,
                            .dim = dim,
                            .out = want.data(),
                            .out_stride = dim});
    const DeviceArray<float> in(x), w(weight);
    ASSERT_TRUE(CudaMakeRows(nullptr, {.x = in.data(), .n_rows = 3, .dim = dim, .norm = w.data(), .eps = 1e-5f},
                             {.floats = in.data()})
                    .ok());
    const std::vector<float> got = in.ToHost();
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], ((dim / 32.0 + 8) / 2 + 4) * kUnit * std::fabs(want[i]));
    }
  }
}

TEST(CudaDense, RopeAndSwiGluAgree) {
  Rng rng(3);
  for (const int head_dim : {2, 10, 64}) {
    const int64_t n = 5;
    const int heads = 3, kv_heads = 2;
    const std::vector<float> x = Normal(&rng, n * heads * head_dim), y = Normal(&rng, n * kv_heads * head_dim),
                             cos = Normal(&rng, n * head_dim / 2), sin = Normal(&rng, n * head_dim / 2);
    const DeviceArray<float> q(x), k(y), c(cos), s(sin);
    ASSERT_TRUE(RunCudaRope(nullptr, {.q = q.data(),
                                      .k = k.data(),
                                      .n_tokens = n,
                                      .n_heads = heads,
                                      .n_kv_heads = kv_heads,
                                      .head_dim = head_dim,
                                      .cos = c.data(),
                                      .sin = s.data()})
                    .ok());
    const auto check = [&](std::vector<float> want, int n_heads, const std::vector<float>& got) {
      reference::RopeTokens({.x = want.data(),
                             .x_stride = n_heads * head_dim,
                             .n_tokens = n,
                             .n_heads = n_heads,
                             .head_dim = head_dim,
                             .cos = cos.data(),
                             .sin = sin.data()});
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 40 * kUnit);
    };
    check(x, heads, q.ToHost());
    check(y, kv_heads, k.ToHost());
  }
  std::vector<float> gate = Normal(&rng, 1000, 3), up = Normal(&rng, 1000), want(1000);
  gate[0] = -100, gate[1] = 100, gate[2] = 0;
  reference::SwiGluRange({.gate = gate.data(), .up = up.data(), .n = 1000, .out = want.data()});
  const DeviceArray<float> g(gate), u(up);
  ASSERT_TRUE(
      CudaMakeRows(nullptr, {.x = g.data(), .n_rows = 1, .dim = 1000, .up = u.data()}, {.floats = g.data()}).ok());
  const std::vector<float> got = g.ToHost();
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], 8 * kUnit * std::fabs(want[i]) + 0x1p-121 * std::fabs(up[i]));
  }
}

/// Makes the rows as floats, which the tests above check, and compares all other outputs with them.
TEST(CudaDense, RoundingIsThatOfTheCpuWhateverIsRounded) {
  Rng rng(4);
  for (const int64_t dim : {100, 257, 5000}) {
    const int64_t n = 3 * dim;
    std::vector<float> x = Normal(&rng, 3 * dim);
    std::fill_n(x.begin() + dim, dim, 0.0f);
    const DeviceArray<float> in(x), up(Normal(&rng, 3 * dim)), weight(Normal(&rng, dim)), made(n);
    const DeviceArray<float> floats(n), scale(size_t{3}), grid(n), grid_alone(n);
    const DeviceArray<uint16_t> rounded(n), rounded_alone(n);
    const DeviceArray<int8_t> codes(n);
    const CudaRows plain{.x = in.data(), .n_rows = 3, .dim = dim};
    CudaRows normed = plain, gated = plain;
    normed.norm = weight.data(), normed.eps = 1e-5f;
    gated.up = up.data();
    for (const CudaRows& rows : {plain, normed, gated}) {
      ASSERT_TRUE(CudaMakeRows(nullptr, rows, {.floats = made.data()}).ok());
      ASSERT_TRUE(CudaMakeRows(nullptr, rows,
                               {.floats = floats.data(),
                                .rounded = rounded.data(),
                                .codes = codes.data(),
                                .scale = scale.data(),
                                .grid = grid.data()})
                      .ok());
      ASSERT_TRUE(CudaMakeRows(nullptr, rows, {.rounded = rounded_alone.data()}).ok());
      ASSERT_TRUE(CudaMakeRows(nullptr, rows, {.grid = grid_alone.data()}).ok());
      const std::vector<float> values = made.ToHost();
      EXPECT_EQ(floats.ToHost(), values);
      EXPECT_EQ(rounded.ToHost(), rounded_alone.ToHost());
      EXPECT_EQ(grid.ToHost(), grid_alone.ToHost());
      const auto got_rounded = rounded.ToHost();
      const auto got_codes = codes.ToHost();
      const auto got_scale = scale.ToHost(), got_grid = grid.ToHost();
      for (int64_t row = 0; row < 3; ++row) {
        std::vector<int8_t> want(dim);
        float want_scale;
        QuantizeInt8(values.data() + row * dim, dim, want.data(), &want_scale);
        ASSERT_EQ(got_scale[row], want_scale);
        for (int64_t i = 0; i < dim; ++i) {
          ASSERT_EQ(got_rounded[row * dim + i], ToBf16(values[row * dim + i]).bits);
          ASSERT_EQ(got_codes[row * dim + i], want[i]);
          ASSERT_EQ(got_grid[row * dim + i], static_cast<float>(want[i]) * want_scale);
        }
      }
    }
  }
}

TEST(CudaDense, ANanSpoilsItsRowOfCodesAlone) {
  std::vector<float> x(300, 1.0f);
  x[7] = NAN;
  const DeviceArray<float> broken(x), scale(size_t{3});
  const DeviceArray<int8_t> codes(300);
  ASSERT_TRUE(CudaMakeRows(nullptr, {.x = broken.data(), .n_rows = 3, .dim = 100},
                           {.codes = codes.data(), .scale = scale.data()})
                  .ok());
  EXPECT_TRUE(std::isnan(scale.ToHost()[0]));
  EXPECT_FALSE(std::isnan(scale.ToHost()[1]));
}

TEST(CudaDense, WidenedRowsAreTheNumbersInBf16OrFloat) {
  Rng rng(5);
  for (const DType type : kTypes) {
    const TestMatrix w(type, 40, 100, &rng);
    const DeviceArray<uint16_t> out(20 * 100);
    ASSERT_TRUE(CudaWidenRows(nullptr, w.view, 16, 36, out.data()).ok());
    const std::vector<uint16_t> got = out.ToHost();
    const DeviceArray<float> floats(20 * 100);
    ASSERT_TRUE(CudaWidenRows(nullptr, w.view, 16, 36, floats.data()).ok());
    const std::vector<float> got_floats = floats.ToHost();
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], ToBf16(w.exact[16 * 100 + i]).bits) << DTypeName(type);
      ASSERT_EQ(got_floats[i], w.exact[16 * 100 + i]) << DTypeName(type);
    }
  }
}

struct GemvCase {
  int64_t n_out, n_in, n_tokens;
  bool round_x, bias, accumulate;
};

void CheckGemv(DType type, const GemvCase& c, Rng* rng) {
  SCOPED_TRACE(std::string(DTypeName(type)) + " " + std::to_string(c.n_out) + "x" + std::to_string(c.n_in) + ", " +
               std::to_string(c.n_tokens) + " tokens");
  const TestMatrix w(type, c.n_out, c.n_in, rng);
  const std::vector<float> x = Normal(rng, c.n_tokens * c.n_in), bias = Normal(rng, c.n_out),
                           before = Normal(rng, c.n_tokens * c.n_out);
  const DeviceArray<float> device_x(x), device_bias(bias), y(before), plain(before.size());
  // A second matrix in the same launch, and a third in another launch.
  const TestMatrix other(DType::kF32, 3, c.n_in, rng);
  const DeviceArray<float> y_other(3 * c.n_tokens);
  const CudaGemvTask tasks[] = {
      {w.view, c.bias ? device_bias.data() : nullptr, y.data(), c.accumulate},
      {w.view, nullptr, plain.data(), false},
      {other.view, nullptr, y_other.data(), false},
  };
  ASSERT_TRUE(
      RunCudaGemv(nullptr, {.tasks = tasks, .x = device_x.data(), .n_tokens = c.n_tokens, .round_x = c.round_x}).ok());
  const std::vector<float> got = y.ToHost(), got_plain = plain.ToHost();
  for (const float value : y_other.ToHost()) ASSERT_TRUE(std::isfinite(value));
  for (int64_t t = 0; t < c.n_tokens; ++t) {
    for (int64_t o = 0; o < c.n_out; ++o) {
      const int64_t at = t * c.n_out + o;
      double sum = 0, magnitude = 0;
      for (int64_t i = 0; i < c.n_in; ++i) {
        const float xi = x[t * c.n_in + i];
        const double product = double{c.round_x ? ToFloat(ToBf16(xi)) : xi} * w.exact[o * c.n_in + i];
        sum += product;
        magnitude += std::fabs(product) + (type == DType::kU8 ? std::fabs(double{xi}) * 8 : 0);
      }
      ASSERT_NEAR(got_plain[at], sum, (c.n_in / 16.0 + 16) * kUnit * magnitude);
      if (c.bias) sum += bias[o], magnitude += std::fabs(bias[o]);
      if (c.accumulate) sum += before[at], magnitude += std::fabs(before[at]);
      ASSERT_NEAR(got[at], sum, (c.n_in / 16.0 + 16) * kUnit * magnitude) << "token " << t << " row " << o;
    }
  }
}

TEST(CudaDense, GemvAgreesForEveryTypeAndAwkwardShapes) {
  Rng rng(6);
  for (const DType type : kTypes) {
    CheckGemv(type, {.n_out = 1, .n_in = 1, .n_tokens = 1, .round_x = false, .bias = false, .accumulate = false}, &rng);
    CheckGemv(type, {.n_out = 17, .n_in = 63, .n_tokens = 3, .round_x = true, .bias = true, .accumulate = false}, &rng);
    CheckGemv(type, {.n_out = 33, .n_in = 264, .n_tokens = 8, .round_x = false, .bias = true, .accumulate = true},
              &rng);
    CheckGemv(type, {.n_out = 24, .n_in = 512, .n_tokens = 13, .round_x = true, .bias = false, .accumulate = true},
              &rng);
  }
}

TEST(CudaDense, LargeProductsOfEveryLayout) {
  Rng rng(8);
  const int64_t tokens = 37, in = 40, out = 24, most = 64;
  const std::vector<float> x = Normal(&rng, most * most), w = Normal(&rng, most * most),
                           before = Normal(&rng, tokens * most);
  auto matmul = CreateCudaMatmul(nullptr);
  ASSERT_TRUE(matmul.ok()) << matmul.status().message();
  const DeviceArray<float> device_x(x), device_w(w);
  const DeviceArray<uint16_t> x16(x.size()), w16(w.size());
  ASSERT_TRUE(CudaMakeRows(nullptr, {.x = device_x.data(), .n_rows = most, .dim = most}, {.rounded = x16.data()}).ok());
  ASSERT_TRUE(CudaMakeRows(nullptr, {.x = device_w.data(), .n_rows = most, .dim = most}, {.rounded = w16.data()}).ok());
  for (int layout = 0; layout < 16; ++layout) {
    SCOPED_TRACE(layout);
    const bool x_transposed = layout % 2 != 0, w_transposed = layout / 2 % 2 != 0, bf16 = layout / 4 % 2 != 0;
    const bool accumulate = layout / 8 != 0;
    // Floats may begin anywhere. Rows of bf16 numbers begin at multiples of 16 bytes.
    const int64_t x_stride = most, w_stride = bf16 ? most - 8 : most - 3, out_stride = most - 1, skip = bf16 ? 0 : 1;
    const DeviceArray<float> y(before);
    const CudaProduct product{.type = bf16 ? ComputeType::kBF16 : ComputeType::kF32,
                              .x = bf16 ? static_cast<const void*>(x16.data()) : device_x.data() + skip,
                              .x_stride = x_stride,
                              .x_transposed = x_transposed,
                              .w = bf16 ? static_cast<const void*>(w16.data()) : device_w.data(),
                              .w_stride = w_stride,
                              .w_transposed = w_transposed,
                              .n_tokens = tokens,
                              .n_in = in,
                              .n_out = out,
                              .out = y.data(),
                              .out_stride = out_stride,
                              .scale = 0.5f,
                              .accumulate = accumulate};
    const Status status = (*matmul)->Run(product);
    ASSERT_TRUE(status.ok()) << status.message();
    const std::vector<float> got = y.ToHost();
    const auto number = [&](float value) { return double{bf16 ? ToFloat(ToBf16(value)) : value}; };
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t o = 0; o < out_stride; ++o) {
        const int64_t at = t * out_stride + o;
        if (o >= out) {
          ASSERT_EQ(got[at], before[at]);
          continue;
        }
        double sum = accumulate ? before[at] : 0, magnitude = std::fabs(sum);
        for (int64_t i = 0; i < in; ++i) {
          const double part = 0.5 * number(x[skip + (x_transposed ? i * x_stride + t : t * x_stride + i)]) *
                              number(w[w_transposed ? i * w_stride + o : o * w_stride + i]);
          sum += part;
          magnitude += std::fabs(part);
        }
        ASSERT_NEAR(got[at], sum, (in + 8) * kUnit * magnitude) << t << " " << o;
      }
    }
  }
}

TEST(CudaDense, Int8ProductsAreScaled) {
  Rng rng(7);
  const int64_t n = 9, in = 32, out = 12;
  const TestMatrix w(DType::kI8, out, in, &rng);
  const std::vector<float> x = Normal(&rng, n * in), bias = Normal(&rng, out), before = Normal(&rng, n * out);
  const DeviceArray<float> device_x(x), device_bias(bias), y(before), scale(n), grid(x.size());
  const DeviceArray<int8_t> codes(x.size());
  const DeviceArray<int32_t> sums(n * out);
  auto matmul = CreateCudaMatmul(nullptr);
  ASSERT_TRUE(matmul.ok()) << matmul.status().message();
  ASSERT_TRUE(CudaMakeRows(nullptr, {.x = device_x.data(), .n_rows = n, .dim = in},
                           {.codes = codes.data(), .scale = scale.data(), .grid = grid.data()})
                  .ok());
  ASSERT_TRUE((*matmul)
                  ->Run({.type = ComputeType::kInt8,
                         .x = codes.data(),
                         .w = w.view.data,
                         .n_tokens = n,
                         .n_in = in,
                         .n_out = out,
                         .out = sums.data(),
                         .out_stride = out,
                         .accumulate = false})
                  .ok());
  ASSERT_TRUE(CudaScaleSums(nullptr, {.sums = sums.data(),
                                      .x_scale = scale.data(),
                                      .w_scale = w.view.scale,
                                      .bias = device_bias.data(),
                                      .n_tokens = n,
                                      .n_out = out,
                                      .out = y.data(),
                                      .accumulate = 1})
                  .ok());
  const std::vector<float> got = y.ToHost(), rounded = grid.ToHost();
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t o = 0; o < out; ++o) {
      const int64_t at = t * out + o;
      double sum = double{before[at]} + bias[o], magnitude = std::fabs(sum);
      for (int64_t i = 0; i < in; ++i) {
        const double product = double{rounded[t * in + i]} * w.exact[o * in + i];
        sum += product;
        magnitude += std::fabs(product);
      }
      ASSERT_NEAR(got[at], sum, (in + 8) * kUnit * magnitude);
    }
  }
}

}  // namespace
}  // namespace duo
