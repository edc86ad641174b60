#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/align.h"
#include "base/buffer.h"
#include "base/file.h"
#include "base/memory_info.h"

namespace duo {
namespace {

TEST(Buffer, RefusesAbsurdSizesWithASentence) {
  auto b = Buffer::Allocate(size_t{1} << 60);
  ASSERT_FALSE(b.ok());
  EXPECT_EQ(b.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(b.status().message().find("1152921504606846976"), std::string::npos);
}

TEST(VirtualBuffer, TakesAsManyAddressesAsItHolds) {
  const auto pages_of_addresses = [] { return std::stoul(*ReadFile("/proc/self/statm", 1000)); };
  constexpr size_t kBytes = size_t{8} << 20, kMany = 50;
  const size_t before = pages_of_addresses();
  {
    std::vector<VirtualBuffer> buffers;
    for (size_t i = 0; i < kMany; ++i) buffers.push_back(VirtualBuffer::Reserve(kBytes).value());
    EXPECT_GE(pages_of_addresses(), before + kMany * kBytes / kPageBytes);
    EXPECT_LT(pages_of_addresses(), before + (kMany + 2) * kBytes / kPageBytes) << "the surplus is freed";
  }
  EXPECT_LT(pages_of_addresses(), before + 2 * kBytes / kPageBytes);
}

TEST(VirtualBuffer, GrowsInPlace) {
  auto reserved = VirtualBuffer::Reserve(size_t{64} << 20);
  ASSERT_TRUE(reserved.ok());
  VirtualBuffer buffer = std::move(*reserved);
  ASSERT_TRUE(buffer.Commit(0, 5000).ok());
  uint8_t* before = buffer.data();
  std::memset(before, 7, 5000);
  ASSERT_TRUE(buffer.Commit(5000, size_t{40} << 20).ok());
  EXPECT_EQ(buffer.data(), before);
  EXPECT_EQ(buffer.data()[4999], 7);
  EXPECT_EQ(buffer.data()[size_t{30} << 20], 0) << "fresh pages read as zero";
  EXPECT_EQ(reinterpret_cast<uintptr_t>(before) % (size_t{2} << 20), 0u);
}

TEST(FormatBytes, HasThreeDigitsOrMore) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1024), "1.00 KiB");
  EXPECT_EQ(FormatBytes(10 * 1024), "10.0 KiB");
  EXPECT_EQ(FormatBytes(uint64_t{1} << 34), "16.0 GiB");
  EXPECT_EQ(FormatBytes(uint64_t{1} << 61), "2048.0 PiB");
}

TEST(MemoryBudget, IsTheLimitOrWhatIsFreeBesideMappedFiles) {
  EXPECT_EQ(MemoryBudget(5, 1000, 100), 5u);
  EXPECT_EQ(MemoryBudget(0, 1000, 100), 900u);
  EXPECT_EQ(MemoryBudget(0, 1000, 2000), 0u);
}

}  // namespace
}  // namespace duo
