#include "kernels/cpu/dense/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <dnnl.hpp>
#include <new>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {
namespace {

// The block is larger than the caches of all threads together, because each group of cores may have its own cache.
constexpr size_t kMinBytes = size_t{256} << 20, kMaxBytes = size_t{2} << 30, kBytesPerThread = size_t{64} << 20;
constexpr int kGemmRuns = 7;
// Small enough that threads finish together, large enough that distributing the tasks costs nothing.
constexpr size_t kReadTaskBytes = size_t{2} << 20;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The last-level cache that core 0 shares with its neighbours; 0 when the system does not report it. (The size from
// sysconf is multiplied by an assumed number of such groups, which under a hypervisor can be the host's.)
size_t LastCacheBytes() {
  size_t kib = 0;
  if (std::FILE* f = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re")) {
    if (std::fscanf(f, "%zuK", &kib) != 1) kib = 0;
    std::fclose(f);
  }
  return kib << 10;
}

// Stops the optimiser from removing `value`, without storing it anywhere.
void Keep(double value) { asm volatile("" : : "g"(&value) : "memory"); }

double GemmGflops(DType type, int n_threads) {
  using Tag = dnnl::memory::format_tag;
  using Type = dnnl::memory::data_type;
  constexpr int64_t kTokens = 512, kIn = 4096, kOut = 1024, kTasksPerThread = 4;
  const Type t = type == DType::kF32 ? Type::f32 : type == DType::kI8 ? Type::s8 : Type::bf16;
  const LibraryOnOneThread alone;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  const dnnl::matmul::desc desc({{kTokens, kIn}, t, Tag::ab}, {{kIn, kOut}, t, Tag::any},
                                {{kTokens, kOut}, Type::f32, Tag::ab});
  const dnnl::matmul::primitive_desc matmul_desc(desc, engine);
  const dnnl::matmul matmul(matmul_desc);
  const dnnl::memory x(matmul_desc.src_desc(), engine);
  std::vector<dnnl::memory> w;
  for (int64_t task = 0; task < kTasksPerThread; ++task) w.emplace_back(matmul_desc.weights_desc(), engine);
  struct Own {
    dnnl::stream stream;
    dnnl::memory out;
  };
  std::vector<Own> own;
  for (int i = 0; i < n_threads; ++i) own.push_back({dnnl::stream(engine), {matmul_desc.dst_desc(), engine}});
  // 0x3f3f.. is about 0.75 as bf16 and as float, in any layout. So the numbers are neither zero nor subnormal.
  std::memset(x.get_data_handle(), 0x3f, x.get_desc().get_size());
  for (const dnnl::memory& m : w) std::memset(m.get_data_handle(), 0x3f, m.get_desc().get_size());
  std::vector<double> seconds;
  std::atomic<bool> refused{false};
  for (int run = 0; run < kGemmRuns + 1; ++run) {
    const double start = Now();
    ParallelFor(n_threads, kTasksPerThread * n_threads, [&](int64_t task, int thread) {
      const LibraryOnOneThread alone_here;
      auto& [stream, out] = own[thread];
      try {
        matmul.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w[task % kTasksPerThread]}, {DNNL_ARG_DST, out}});
        stream.wait();
      } catch (const dnnl::error&) {
        refused = true;
      }
    });
    if (run > 0) seconds.push_back(Now() - start);  // the first run touches the output's pages
  }
  if (refused) throw dnnl::error(dnnl_runtime_error, "it did not run");
  std::nth_element(seconds.begin(), seconds.begin() + kGemmRuns / 2, seconds.end());
  return 2.0 * kTokens * kIn * kOut * kTasksPerThread * n_threads / seconds[kGemmRuns / 2] * 1e-9;
}

}  // namespace

Result<ReadBandwidth> ReadBandwidth::Create(Isa isa, int n_threads) {
  const size_t want = std::clamp(std::max(8 * LastCacheBytes(), n_threads * kBytesPerThread), kMinBytes, kMaxBytes);
  const int64_t n_tasks = want / kReadTaskBytes;
  DUO_ASSIGN_OR_RETURN(Buffer block, Buffer::Allocate(n_tasks * kReadTaskBytes));
  auto* data = block.as<uint8_t>();
  ParallelFor(n_threads, n_tasks,
              [&](int64_t task, int) { std::memset(data + task * kReadTaskBytes, 1, kReadTaskBytes); });
  return ReadBandwidth(std::move(block), isa, n_threads);
}

double ReadBandwidth::Measure() const {
  const DenseKernels& kernels = DenseKernelsFor(isa_);
  const auto* data = block_.as<uint8_t>();
  const double start = Now();
  ParallelFor(n_threads_, block_.bytes() / kReadTaskBytes,
              [&](int64_t task, int) { Keep(kernels.read_sum(data + task * kReadTaskBytes, kReadTaskBytes)); });
  return static_cast<double>(block_.bytes()) / (Now() - start) * 1e-9;
}

Result<double> MeasureGemmGflops(Isa isa, DType type, int n_threads) {
  try {
    const Isa needed = type == DType::kI8 ? Isa::kAvx512Vnni : Isa::kAvx512Bf16;
    return GemmGflops(isa >= needed ? type : DType::kF32, n_threads);
  } catch (const dnnl::error& e) {
    return Internal("oneDNN refused the matrix product that measures the ceiling: {}", e.what());
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("no memory for the matrix product that measures the ceiling");
  }
}

}  // namespace duo
