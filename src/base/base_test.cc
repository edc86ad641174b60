#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/bf16.h"
#include "base/fnv1a.h"
#include "base/progress_counter.h"
#include "base/rng.h"
#include "base/strings.h"

namespace duo {
namespace {

TEST(Strings, TrimRemovesOnlyBlanksAtTheEnds) {
  EXPECT_EQ(Trim(" \t a b\r\n"), "a b");
  EXPECT_EQ(TrimStart("  a "), "a ");
  EXPECT_EQ(TrimEnd("  a "), "  a");
  EXPECT_EQ(Trim(" \n "), "");
  EXPECT_EQ(Trim(""), "");
  EXPECT_EQ(Trim("\n\n a \n", "\n"), " a ");
}

TEST(Strings, CharactersAreCountedNotBytes) {
  EXPECT_EQ(CountCharacters(""), 0);
  EXPECT_EQ(CountCharacters("abc"), 3);
  EXPECT_EQ(CountCharacters("a\u00e9\u20ac\U0001f600"), 4);  // 1, 2, 3 and 4 bytes
}

TEST(ProgressCounter, ReportsTheSumAndStopsWhenAsked) {
  std::vector<Progress> seen;
  const ProgressCallback progress = [&](const Progress& p) {
    seen.push_back(p);
    return p.done < 5;
  };
  ProgressCounter counter(progress, "read", "files", 7);
  EXPECT_TRUE(counter.Add(2).ok());
  EXPECT_TRUE(counter.Callback()({.stage = "inner", .done = 99}));
  EXPECT_EQ(counter.Add(3).code(), StatusCode::kCancelled);
  EXPECT_FALSE(counter.Callback()({}));
  ASSERT_EQ(seen.size(), 4u);
  EXPECT_EQ(seen[1].done, 2);
  EXPECT_EQ(seen[2].done, 5);
  EXPECT_EQ(seen[2].total, 7);
  EXPECT_STREQ(seen[2].stage, "read");
  EXPECT_STREQ(seen[2].unit, "files");
  EXPECT_GE(seen[2].seconds, seen[0].seconds);
  const ProgressCallback none;
  EXPECT_TRUE(ProgressCounter(none, "read", "files", 1).Add(1).ok());
}

TEST(Bf16, RoundsToNearestEvenAndKeepsSpecials) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bf16 b{static_cast<uint16_t>(bits)};
    const float f = ToFloat(b);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToBf16(f))));
    } else {
      EXPECT_EQ(ToBf16(f).bits, bits);
    }
  }
  EXPECT_EQ(ToBf16(1.0f + 0x1p-8f).bits, ToBf16(1.0f).bits) << "a tie goes to the even mantissa";
  EXPECT_EQ(ToBf16(1.0f + 0x3p-8f).bits, ToBf16(1.0f + 0x1p-6f).bits);
  EXPECT_TRUE(std::isinf(ToFloat(ToBf16(std::numeric_limits<float>::max()))));
}

TEST(F16, EveryValueIsExact) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    const float f = ToFloat(f16{static_cast<uint16_t>(bits)});
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(f), mantissa != 0);
    } else if (exponent == 0) {
      EXPECT_EQ(f, sign * std::ldexp(mantissa, -24));
    } else {
      EXPECT_EQ(f, sign * std::ldexp(1024.0 + mantissa, exponent - 25));
    }
  }
}

TEST(Rng, IsTheSameEverywhere) {
  Rng rng(42);
  EXPECT_EQ(rng.Next(), 0xbdd732262feb6e95ull);
  double sum = 0, squares = 0;
  for (int i = 0; i < 100000; ++i) {
    const double x = rng.Normal();
    sum += x;
    squares += x * x;
    ASSERT_LT(rng.Below(7), 7u);
  }
  EXPECT_NEAR(sum / 1e5, 0, 0.02);
  EXPECT_NEAR(squares / 1e5, 1, 0.02);
}

TEST(Fnv1a, KnownValues) {
  Fnv1a hash;
  EXPECT_EQ(hash.Text(), "cbf29ce484222325");
  hash.Add("a", 1);
  EXPECT_EQ(hash.Text(), "af63dc4c8601ec8c");
}

}  // namespace
}  // namespace duo
