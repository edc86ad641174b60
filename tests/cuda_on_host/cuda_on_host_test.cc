// The stand-in itself must find the mistakes that it exists for.
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "cuda_on_host/cuda_runtime.h"
#include "kernels/cuda/device_array_for_test.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

__global__ void SumKernel(const float* x, int n, float* out) {
  DUO_SHARED_MEMORY(shared);
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) sum += x[i];
  sum = BlockReduce(sum, reinterpret_cast<float*>(shared), 0.0f, [](float v) { return WarpSum(v); });
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

/// Every thread writes, then reads its neighbour's value, with or without a barrier in between.
__global__ void NeighbourKernel(bool barrier, int* out) {
  DUO_SHARED_MEMORY(shared);
  auto* slots = reinterpret_cast<int*>(shared);
  slots[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = slots[(threadIdx.x + 1) % blockDim.x];
}

__global__ void DivergentKernel(int* out) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncwarp();
  }
  out[0] = 1;
}

__global__ void AsyncCopyKernel(const int* from, bool wait, int* out) {
  DUO_SHARED_MEMORY(shared);
  auto* slot = reinterpret_cast<int*>(shared) + threadIdx.x;
  cuda_on_host::CopyAsync(slot, from + threadIdx.x, sizeof(int));
  cuda_on_host::CommitCopies();
  if (wait) cuda_on_host::WaitForCopies(0);
  out[threadIdx.x] = *slot;
}

__global__ void StoreKernel(int* out, size_t at) { out[at] = 7; }

class CudaOnHost : public testing::Test {
 protected:
  void TearDown() override {
    cuda_on_host::SetSchedule(cuda_on_host::Schedule::kAscending);
    cuda_on_host::SetError(0);
    cuda_on_host::Facts() = {};
  }
};

TEST_F(CudaOnHost, BlocksReduceInEveryOrder) {
  std::vector<float> x(1000);
  std::iota(x.begin(), x.end(), 1.0f);
  for (const auto schedule :
       {cuda_on_host::Schedule::kAscending, cuda_on_host::Schedule::kDescending, cuda_on_host::Schedule::kShuffled}) {
    cuda_on_host::SetSchedule(schedule);
    const DeviceArray<float> in(x), out(3 * 96);
    ASSERT_TRUE(Launch(nullptr, "sum", {3, 96, 32 * sizeof(float)}, SumKernel, in.data(), 1000, out.data()).ok());
    for (const float sum : out.ToHost()) ASSERT_EQ(sum, 500500.0f);
  }
}

TEST_F(CudaOnHost, AMissingBarrierShows) {
  std::vector<int> expected(64);
  for (int i = 0; i < 64; ++i) expected[i] = (i + 1) % 64;
  for (const bool barrier : {true, false}) {
    bool right = true;
    for (const auto schedule : {cuda_on_host::Schedule::kAscending, cuda_on_host::Schedule::kDescending}) {
      cuda_on_host::SetSchedule(schedule);
      const DeviceArray<int> out(64);
      ASSERT_TRUE(Launch(nullptr, "neighbour", {1, 64, 64 * sizeof(int)}, NeighbourKernel, barrier, out.data()).ok());
      right = right && out.ToHost() == expected;
    }
    EXPECT_EQ(right, barrier);
  }
}

TEST_F(CudaOnHost, AnAsynchronousCopyIsNotThereBeforeItIsWaitedFor) {
  const std::vector<int> values = {5, 6, 7};
  const DeviceArray<int> in(values);
  for (const bool wait : {true, false}) {
    const DeviceArray<int> out(3);
    ASSERT_TRUE(Launch(nullptr, "copy", {1, 3, 3 * sizeof(int)}, AsyncCopyKernel, in.data(), wait, out.data()).ok());
    EXPECT_EQ(out.ToHost() == values, wait);
  }
}

TEST_F(CudaOnHost, WorkRunsWhenItIsWaitedFor) {
  const DeviceArray<int> out(1);
  std::vector<int> pageable = {1};
  int* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, sizeof(int)), cudaSuccess);
  *pinned = 1;
  cudaMemcpyAsync(out.data(), pageable.data(), sizeof(int), cudaMemcpyHostToDevice, nullptr);
  pageable[0] = 2;
  EXPECT_EQ(out.ToHost()[0], 1);
  cudaMemcpyAsync(out.data(), pinned, sizeof(int), cudaMemcpyHostToDevice, nullptr);
  *pinned = 2;  // too early: the copy has not run
  EXPECT_EQ(out.ToHost()[0], 2);
  cudaFreeHost(pinned);
}

TEST_F(CudaOnHost, LaunchesThatCannotBeInAGraphAreNamedAndTheOthersRun) {
  CudaGraphs graphs(nullptr);
  const CudaStream stream(nullptr, &graphs);
  const DeviceArray<int> out(2);
  constexpr unsigned kTooManyThreads = 2000;
  const auto run = [&](unsigned threads, bool part) {
    graphs.Begin(0);
    EXPECT_TRUE(Launch(stream, "first", {1, 1}, StoreKernel, out.data(), size_t{0}).ok());
    if (part) stream.get();  // sends the first launch alone
    EXPECT_TRUE(Launch(stream, "second", {1, threads}, StoreKernel, out.data(), size_t{1}).ok());
    return graphs.End();
  };
  for (const bool part : {true, false}) {
    const Status status = run(kTooManyThreads, part);
    EXPECT_NE(status.message().find("second"), std::string::npos) << status.message();
    EXPECT_EQ(out.ToHost()[0], 7);
    EXPECT_NE(out.ToHost()[1], 7);
  }
  EXPECT_EQ(graphs.n_launched(), 0);
  EXPECT_TRUE(run(1, false).ok()) << "an error is reported once, and graphs continue";
  EXPECT_EQ(graphs.n_launched(), 1);
  EXPECT_EQ(out.ToHost()[1], 7);
  // A driver that cannot make graphs is asked only a few times.
  cuda_on_host::Facts().has_graphs = false;
  CudaGraphs none(nullptr);
  for (int step = 0; step < 5; ++step) {
    none.Begin(0);
    EXPECT_TRUE(Launch(CudaStream(nullptr, &none), "store", {1, 1}, StoreKernel, out.data(), size_t{0}).ok());
    EXPECT_TRUE(none.End().ok());
    cuda_on_host::Facts().has_graphs = step >= 2;
  }
  EXPECT_EQ(none.n_launched(), 0);
}

TEST_F(CudaOnHost, FaultsShowLaterAndStay) {
  const DeviceArray<int> out(1);
  cuda_on_host::FailNextKernel(cudaErrorIllegalAddress);
  EXPECT_TRUE(Launch(nullptr, "store", {1, 1}, StoreKernel, out.data(), size_t{0}).ok());
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaErrorIllegalAddress);
}

TEST_F(CudaOnHost, LaunchesThatCannotBeAreRefused) {
  const DeviceArray<int> out(1);
  const Status none = Launch(nullptr, "store", {0, 1}, StoreKernel, out.data(), size_t{0});
  EXPECT_NE(none.message().find("store"), std::string::npos) << none.message();
  EXPECT_FALSE(Launch(nullptr, "store", {1, 2048}, StoreKernel, out.data(), size_t{0}).ok());
  EXPECT_FALSE(Launch(nullptr, "store", {1, 1, size_t{1} << 20}, StoreKernel, out.data(), size_t{0}).ok());
}

using CudaOnHostDeathTest = CudaOnHost;

TEST_F(CudaOnHostDeathTest, MistakesEndTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        const DeviceArray<int> out(1);
        (void)Launch(nullptr, "divergent", {1, 32}, DivergentKernel, out.data());
        cudaStreamSynchronize(nullptr);
      },
      "wait for different things");
  EXPECT_DEATH(
      {
        const auto host = std::make_unique<int[]>(4);
        (void)Launch(nullptr, "store", {1, 1}, StoreKernel, host.get(), size_t{0});
      },
      "address of host memory");
  EXPECT_DEATH(
      {
        const DeviceArray<int> out(1);
        out.data()[0] = 1;  // the host writes
      },
      "");
}

}  // namespace
}  // namespace duo
