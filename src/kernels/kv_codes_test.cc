// Rows of codes: the error of quantising, the values that must stay exact, and copies.
#include "kernels/kv_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/reference/attention_reference.h"

namespace duo {
namespace {

std::vector<KvFormat> Formats(int head_dim) {
  std::vector<KvFormat> formats;
  for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
    for (const KvType type : {KvType::kInt8, KvType::kInt4}) formats.push_back({part, type, head_dim});
  }
  return formats;
}

std::vector<double> Decoded(const KvFormat& f, const std::vector<uint8_t>& rows, int64_t row) {
  std::vector<double> x;
  for (int d = 0; d < f.head_dim; ++d) x.push_back(KvElement(rows.data(), f.part, f.type, row, f.head_dim, d));
  return x;
}

std::vector<float> Normal(Rng* rng, int n, double shift, double deviation) {
  std::vector<float> x(n);
  for (float& value : x) value = shift + rng->Normal() * deviation;
  return x;
}

TEST(KvCodes, EveryElementIsWithinHalfAStep) {
  Rng rng(1);
  for (const int head_dim : {8, 10, 12, 62, 64, 80, 96, 128, 256, 512}) {
    for (const KvFormat& f : Formats(head_dim)) {
      std::vector<uint8_t> rows(KvBytes(f.type, head_dim, 20));
      for (const double scale : {1e-30, 1e-3, 1.0, 1e20}) {
        const std::vector<float> x = Normal(&rng, head_dim, 3 * scale, scale);
        QuantizeRow(x.data(), f, rows.data(), 18);
        const auto [low, high] = std::minmax_element(x.begin(), x.end());
        // Rounding moves low down by at most 2^-7 of itself, and the step up by at most 2^-7 of itself.
        const double range = double{*high} - *low + std::ldexp(std::fabs(double{*low}), -7);
        const double step = range / (f.type == KvType::kInt8 ? 255 : 15) * (1 + std::ldexp(1.0, -7));
        const std::vector<double> y = Decoded(f, rows, 18);
        for (size_t d = 0; d < x.size(); ++d) ASSERT_NEAR(y[d], x[d], 0.5001 * step) << head_dim << " " << d;
      }
    }
  }
}

TEST(KvCodes, RowsOfEqualElementsAndExtremes) {
  for (const KvFormat& f : Formats(16)) {
    std::vector<uint8_t> rows(KvBytes(f.type, 16, 16));
    for (const float value : {0.0f, -0.0f, 1.5f, -96.0f, 0x1p-133f}) {
      QuantizeRow(std::vector<float>(16, value).data(), f, rows.data(), 3);
      for (const double y : Decoded(f, rows, 3)) EXPECT_EQ(y, double{value}) << "bf16 holds " << value;
    }
    QuantizeRow(std::vector<float>(16, 1.00001f).data(), f, rows.data(), 3);
    for (const double y : Decoded(f, rows, 3)) EXPECT_NEAR(y, 1.00001, 1e-4);
    std::vector<float> x(16, 0.0f);
    x[3] = std::numeric_limits<float>::max();
    x[4] = -std::numeric_limits<float>::max();
    QuantizeRow(x.data(), f, rows.data(), 3);
    const std::vector<double> y = Decoded(f, rows, 3);
    EXPECT_NEAR(y[3] / double{kMaxQuantized}, 1, 0.02) << "clamped, and finite";
    EXPECT_NEAR(y[4] / double{kMaxQuantized}, -1, 0.02);
    EXPECT_TRUE(std::isfinite(static_cast<float>(y[3])) && std::isfinite(static_cast<float>(y[4])));
    for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
      for (const size_t at : {size_t{0}, size_t{15}}) {
        std::vector<float> row(16, 1.0f);
        row[at] = bad;
        QuantizeRow(row.data(), f, rows.data(), 3);
        for (const double value : Decoded(f, rows, 3)) EXPECT_TRUE(std::isnan(value));
      }
    }
  }
}

TEST(KvCodes, WritingARowLeavesTheOthers) {
  Rng rng(2);
  for (const int head_dim : {10, 64}) {
    for (const KvFormat& f : Formats(head_dim)) {
      std::vector<uint8_t> rows(KvBytes(f.type, head_dim, 40));
      std::vector<std::vector<double>> want(40);
      for (const int64_t row : {39, 0, 17, 16, 15, 2, 3, 1, 31, 32, 17, 0}) {
        const std::vector<float> x = Normal(&rng, head_dim, 0, 1);
        QuantizeRow(x.data(), f, rows.data(), row);
        want[row] = Decoded(f, rows, row);
        for (size_t r = 0; r < 40; ++r) {
          if (want[r].empty()) continue;
          ASSERT_EQ(Decoded(f, rows, r), want[r]) << r << " after " << row;
        }
      }
    }
  }
}

TEST(KvCodes, CopiesAnyRowsToAnyOthers) {
  Rng rng(3);
  std::vector<KvFormat> formats = Formats(20);
  formats.push_back({KvPart::kKeys, KvType::kBF16, 20});
  for (const KvFormat& f : formats) {
    std::vector<uint8_t> from(KvBytes(f.type, 20, 70));
    for (int64_t r = 0; r < 70; ++r) {
      const std::vector<float> x = Normal(&rng, 20, 0, 1);
      if (f.type == KvType::kBF16) {
        for (size_t d = 0; d < 20; ++d) reinterpret_cast<bf16*>(from.data())[r * 20 + d] = ToBf16(x[d]);
      } else {
        QuantizeRow(x.data(), f, from.data(), r);
      }
    }
    for (int i = 0; i < 100; ++i) {
      const int64_t n = rng.Below(50);
      const int64_t from_row = rng.Below(70 - n);
      const int64_t to_row = i % 3 == 0 ? from_row % 16 : static_cast<int64_t>(rng.Below(20));
      std::vector<uint8_t> to(KvBytes(f.type, 20, 70)), before;
      CopyKvRows(f, from.data(), 0, to.data(), 0, 70);
      ASSERT_EQ(to, from);
      std::fill(to.begin(), to.end(), uint8_t{0});
      CopyKvRows(f, from.data(), from_row, to.data(), to_row, n);
      for (int64_t r = 0; r < 70; ++r) {
        const bool copied = r >= to_row && r < to_row + n;
        ASSERT_EQ(Decoded(f, to, r), copied ? Decoded(f, from, from_row + r - to_row) : std::vector<double>(20, 0.0));
      }
    }
  }
}

}  // namespace
}  // namespace duo
