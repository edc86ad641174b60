// Linked into programs whose tests need a GPU. Without a GPU every test says SKIPPED. A GPU that cannot be used fails
// the tests.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdio>

namespace duo {
namespace {

class NeedsDevice : public testing::Environment {
 public:
  void SetUp() override {
    int driver = 0, n_devices = 0;
    cudaDriverGetVersion(&driver);
    const cudaError_t error = cudaGetDeviceCount(&n_devices);
    if (driver == 0 || error == cudaErrorNoDevice) {
      std::puts("[  SKIPPED ] no NVIDIA GPU here");  // GoogleTest does not print it for all tests together
      GTEST_SKIP();
    }
    ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
    ASSERT_GT(n_devices, 0);
  }
};

const testing::Environment* const kNeedsDevice = testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace
}  // namespace duo
