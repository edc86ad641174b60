// Linked into programs whose tests need a GPU: without one every test says SKIPPED.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

namespace duo {
namespace {

class NeedsDevice : public testing::Environment {
 public:
  void SetUp() override {
    int n_devices = 0;
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) GTEST_SKIP() << "no NVIDIA GPU here";
  }
};

const testing::Environment* const kNeedsDevice = testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace
}  // namespace duo
