#include "eval/logits_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "base/mapped_file.h"
#include "base/temp_dir_for_test.h"
#include "checkpoint/safetensors.h"

namespace duo {
namespace {

TEST(WriteLogits, WritesRowsAndTheirPositions) {
  const TempDir dir;
  const std::vector<float> logits = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> positions = {7, 9};
  ASSERT_TRUE(WriteLogits(dir.file("out"), logits, 3, positions).ok());
  const MappedFile file = MappedFile::Open(dir.file("out")).value();
  const safetensors::Header header = safetensors::ParseHeader(file.data(), file.size(), "out").value();
  const auto holds = [&](const char* name, std::vector<int64_t> shape, const void* data) {
    const safetensors::Entry& entry = header.find(name)->second;
    return entry.shape == shape && std::memcmp(file.data() + entry.begin, data, entry.bytes) == 0;
  };
  EXPECT_EQ(header.size(), 2u);
  EXPECT_TRUE(holds("logits", {2, 3}, logits.data()));
  EXPECT_TRUE(holds("positions", {2}, positions.data()));
  EXPECT_EQ(WriteLogits(dir.file("no/such/folder"), logits, 3, positions).code(), StatusCode::kIo);
}

}  // namespace
}  // namespace duo
