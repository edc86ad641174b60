// Rows in caches on the device are equal, byte for byte, to those of the CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/cuda/device_array_for_test.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/kv_codes.h"

namespace duo {
namespace {

const KvType kTypes[] = {KvType::kF32, KvType::kBF16, KvType::kInt8, KvType::kInt4};

void StoreOnCpu(const float* x, const KvFormat& format, uint8_t* to, int64_t row) {
  uint8_t* at = to + row * KvRowBytes(format.type, format.head_dim);
  if (format.type == KvType::kF32) std::memcpy(at, x, KvRowBytes(format.type, format.head_dim));
  if (format.type == KvType::kBF16) {
    for (int d = 0; d < format.head_dim; ++d) {
      const bf16 value = ToBf16(x[d]);
      std::memcpy(at + 2 * d, &value, 2);
    }
  }
  if (KvBlockRows(format.type) > 1) QuantizeRow(x, format, to, row);
}

TEST(CudaKvRows, StoringIsThatOfTheCpu) {
  Rng rng(1);
  for (const KvType type : kTypes) {
    for (const int head_dim : {8, 10, 62, 64, 128, 512}) {
      const int64_t n_rows = 37, first = 5, capacity = 48, stride = head_dim + 3;
      std::vector<float> x((n_rows + 1) * stride);
      for (float& value : x) value = rng.Normal();
      for (int d = 0; d < head_dim; ++d) x[stride + d] = 2.5f;  // equal elements
      x[2 * stride] = NAN;
      x[3 * stride + 1] = INFINITY;
      x[4 * stride] = 3e38f;
      const size_t bytes = KvBytes(type, head_dim, capacity);
      std::vector<uint8_t> want[2] = {std::vector<uint8_t>(bytes, 0xff), std::vector<uint8_t>(bytes, 0xff)};
      const DeviceArray<float> device_x(x);
      const DeviceArray<uint8_t> k(bytes), v(bytes);
      std::vector<StoreTask> tasks;
      for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
        const bool keys = part == KvPart::kKeys;
        for (int64_t r = 0; r < n_rows; ++r) {
          StoreOnCpu(x.data() + r * stride, {part, type, head_dim}, want[keys ? 0 : 1].data(), first + r);
        }
        tasks.push_back({device_x.data(), stride, keys ? k.data() : v.data(), first, n_rows, part});
      }
      tasks.push_back({device_x.data(), stride, k.data(), 0, 0, KvPart::kKeys});  // no rows
      ASSERT_TRUE(CudaStoreRows(nullptr, tasks, head_dim, type).ok());
      EXPECT_EQ(k.ToHost(), want[0]) << KvTypeName(type) << " keys " << head_dim;
      EXPECT_EQ(v.ToHost(), want[1]) << KvTypeName(type) << " values " << head_dim;
    }
  }
}

TEST(CudaKvRows, CopyingIsThatOfTheCpu) {
  Rng rng(2);
  for (const KvType type : kTypes) {
    for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
      const int head_dim = 36;
      const int64_t n_rows = 50;
      const size_t bytes = KvBytes(type, head_dim, n_rows);
      std::vector<uint8_t> from(bytes);
      for (uint8_t& byte : from) byte = rng.Below(256);
      const DeviceArray<uint8_t> src(from), dst(bytes);
      std::vector<uint8_t> want(bytes, 0xff);
      std::vector<CopyRowsTask> tasks;
      for (int64_t i = 0; i < 200; ++i) {  // more tasks than one launch takes
        const int64_t src_row = rng.Below(40), row = i % 48, n = 1;
        if (i < 152) continue;
        CopyKvRows({part, type, head_dim}, from.data(), src_row, want.data(), row, n);
        tasks.push_back({src.data(), src_row, dst.data(), row, n, part});
      }
      for (int i = 0; i < 150; ++i) tasks.push_back(tasks.back());  // repeats the last task
      ASSERT_TRUE(CudaCopyRows(nullptr, tasks, head_dim, type).ok());
      EXPECT_EQ(dst.ToHost(), want) << KvTypeName(type);
    }
  }
}

}  // namespace
}  // namespace duo
