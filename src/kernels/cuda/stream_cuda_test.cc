// Launches that go to the device as graphs give the same results as one by one. The tests run on a GPU, or on the CPU
// through tests/cuda_on_host.
#include "kernels/cuda/stream.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/backward.h"
#include "kernels/cuda/device_array_for_test.h"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

/// Arrays x, y and z, and their expected values after x += y, y += x, z += y in this order.
class Sums {
 public:
  explicit Sums(size_t n) : x_(Filled(n, 1)), y_(Filled(n, 2)), z_(Filled(n, 3)) {}

  void Queue(CudaStream stream, int n_launches) {
    const auto n = std::ssize(x_);
    const DeviceArray<float>* arrays[] = {&x_, &y_, &z_, &x_};
    for (int i = 0; i < n_launches; ++i) {
      const int to = i % 3, from = to == 0 ? 1 : to - 1;
      ASSERT_TRUE(CudaAdd(stream, arrays[to]->data(), arrays[from]->data(), n).ok());
      want_[to] += want_[from];
    }
  }
  void Check() const {
    const DeviceArray<float>* arrays[] = {&x_, &y_, &z_};
    for (int i = 0; i < 3; ++i) {
      for (const float got : arrays[i]->ToHost()) ASSERT_EQ(got, want_[i]) << "array " << i;
    }
  }

 private:
  static std::vector<float> Filled(size_t n, float value) { return std::vector<float>(n, value); }

  DeviceArray<float> x_, y_, z_;
  float want_[3] = {1, 2, 3};
};

TEST(CudaGraphs, RunInTheOrderOfTheCalls) {
  CudaGraphs graphs(nullptr);
  const CudaStream stream(nullptr, &graphs);
  // Other arrays and sizes change the arguments and grids of the same graph. More launches need another graph.
  Sums small(10), large(100000);
  for (const int n : {3, 3, 6, 6, 2, 3}) {
    for (Sums* sums : {&small, &large, &small}) {
      graphs.Begin(0);
      sums->Queue(stream, n);
      ASSERT_TRUE(graphs.End().ok());
      graphs.Begin(1);
      sums->Queue(stream, 3);
      ASSERT_TRUE(graphs.End().ok());
    }
  }
  EXPECT_EQ(graphs.n_launched(), 2 * 6 * 3) << "the driver refuses graphs";
  small.Check();
  large.Check();
}

TEST(CudaGraphs, WhatComesBetweenLaunchesStaysThere) {
  CudaGraphs graphs(nullptr);
  const CudaStream stream(nullptr, &graphs);
  const DeviceArray<float> x(std::vector<float>(5, 1.0f)), y(std::vector<float>(5, 1.0f)), kept(size_t{5});
  for (int step = 0; step < 3; ++step) {
    graphs.Begin(0);
    ASSERT_TRUE(CudaAdd(stream, x.data(), y.data(), 5).ok());
    ASSERT_EQ(cudaMemcpyAsync(kept.data(), x.data(), 5 * sizeof(float), cudaMemcpyDeviceToDevice, stream.get()),
              cudaSuccess);
    ASSERT_TRUE(CudaAdd(stream, x.data(), y.data(), 5).ok());
    ASSERT_TRUE(graphs.End().ok());
    EXPECT_EQ(kept.ToHost(), std::vector<float>(5, static_cast<float>(2 + 2 * step)));
    EXPECT_EQ(x.ToHost(), std::vector<float>(5, static_cast<float>(3 + 2 * step)));
  }
}

TEST(CudaGraphs, NothingIsHeldBackOutsideOfParts) {
  CudaGraphs graphs(nullptr);
  const CudaStream stream(nullptr, &graphs);
  graphs.Begin(0);
  ASSERT_TRUE(graphs.End().ok());
  const DeviceArray<float> x(std::vector<float>(5, 1.0f));
  ASSERT_TRUE(CudaAdd(stream, x.data(), x.data(), 5).ok());
  EXPECT_EQ(x.ToHost(), std::vector<float>(5, 2.0f));
}

TEST(CudaGraphs, WhatCannotBeLaunchedIsNamedAndTheRestRuns) {
  CudaGraphs graphs(nullptr);
  const CudaStream stream(nullptr, &graphs);
  const DeviceArray<float> x(std::vector<float>(5, 1.0f));
  for (int step = 0; step < 2; ++step) {
    graphs.Begin(0);
    ASSERT_TRUE(CudaAdd(stream, x.data(), x.data(), 5).ok());
    const Status status = CudaAdd(stream, x.data(), x.data(), 0);  // a grid without blocks
    EXPECT_EQ(status.code(), StatusCode::kInternal);
    EXPECT_NE(status.message().find("CUDA: adding: "), std::string::npos) << status.message();
    ASSERT_TRUE(graphs.End().ok());
  }
  EXPECT_EQ(x.ToHost(), std::vector<float>(5, 4.0f));
}

}  // namespace
}  // namespace duo
