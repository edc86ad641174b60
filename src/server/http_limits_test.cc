#include "server/http_limits.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

TEST(HttpLimits, BodiesFollowFromTheContext) {
  const HttpLimits limits = FitBodies({}, 32768, 16 * kGiB);
  EXPECT_EQ(limits.max_body_bytes, size_t{2} << 20);
  EXPECT_EQ(limits.max_body_bytes_together, size_t{16} << 20);
  EXPECT_LE(MemoryForBodies(limits), kGiB);
  EXPECT_EQ(FitBodies({}, 1 << 20, 16 * kGiB).max_body_bytes, size_t{33} << 20);
}

TEST(HttpLimits, BodiesTakeASmallShareOfLittleMemory) {
  for (const uint64_t mib : {uint64_t{40}, uint64_t{64}, uint64_t{256}, uint64_t{1024}}) {
    const uint64_t memory = mib << 20;
    const HttpLimits limits = FitBodies({}, 8192, memory);
    EXPECT_GE(limits.max_body_bytes, 8 * 8192u) << "a whole context of ids";
    EXPECT_GE(limits.max_body_bytes_together, limits.max_body_bytes) << "one body always fits";
    EXPECT_LE(MemoryForBodies(limits), memory / 16) << mib;
  }
}

TEST(HttpLimits, WhatIsAskedForIsGiven) {
  HttpLimits limits;
  limits.max_body_bytes = size_t{64} << 20;
  EXPECT_EQ(FitBodies(limits, 8192, kGiB).max_body_bytes, size_t{64} << 20);
  EXPECT_EQ(FitBodies(limits, 8192, kGiB).max_body_bytes_together, size_t{64} << 20);
  EXPECT_EQ(FitBodies(limits, 8192, 1024 * kGiB).max_body_bytes_together, size_t{128} << 20);
}

}  // namespace
}  // namespace duo
