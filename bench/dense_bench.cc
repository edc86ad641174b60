// Measures dense kernels on the shapes of an 8B model, and the ceiling of the same run for each number.
// GB_s counts the bytes of the weights, or of the arrays that are read and written. The counter of_ceiling is GB_s
// divided by the read bandwidth, or GFLOP_s divided by that of oneDNN with packed weights.
// Values of the argument isa: 0 portable, 1 avx2, 2 avx512, 3 avx512_vnni, 4 avx512_bf16.
//
//   dense_bench --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "kernels/cpu/dense/ceilings.h"
#include "kernels/cpu/dense/gemm.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {
namespace {

// Rows per task. They are 2 MiB of bf16 weights if n_in is 4096.
constexpr int64_t kTaskRows = 256;

double ReadCeiling(int n_threads) {
  static std::map<int, double> measured;
  auto [at, fresh] = measured.try_emplace(n_threads, 0.0);
  if (fresh) {
    const ReadBandwidth memory = ReadBandwidth::Create(DetectIsa(), n_threads).value();
    std::array<double, 9> passes;
    for (double& gb_s : passes) gb_s = memory.Measure();
    std::nth_element(passes.begin(), passes.begin() + 4, passes.end());
    at->second = passes[4];
  }
  return at->second;
}

double GemmCeiling(DType type, int n_threads) {
  static std::map<std::pair<DType, int>, double> measured;
  auto [at, fresh] = measured.try_emplace({type, n_threads}, 0.0);
  if (fresh) at->second = MeasureGemmGflops(DetectIsa(), type, n_threads).value();
  return at->second;
}

// Fills memory with bit patterns that are ordinary numbers in every type. The sign is 0, and in bf16 and f32 the values
// are between 0.5 and 1.
Buffer Numbers(size_t bytes) {
  Buffer buffer = Buffer::Allocate(bytes).value();
  std::memset(buffer.data(), 0x3f, bytes);
  return buffer;
}

bool SkipUnavailable(benchmark::State& state, Isa isa) {
  if (isa <= DetectIsa()) return false;
  state.SkipWithError("this CPU lacks the instruction set");
  return true;
}

void ReportBandwidth(benchmark::State& state, double bytes, int n_threads) {
  const double total = bytes * static_cast<double>(state.iterations()) * 1e-9;
  state.counters["GB_s"] = benchmark::Counter(total, benchmark::Counter::kIsRate);
  state.counters["of_ceiling"] = benchmark::Counter(total / ReadCeiling(n_threads), benchmark::Counter::kIsRate);
}

void BM_Gemv(benchmark::State& state) {
  const auto isa = static_cast<Isa>(state.range(0));
  const auto type = static_cast<DType>(state.range(1));
  const int64_t n_out = state.range(2), n_in = state.range(3);
  const int n_threads = static_cast<int>(state.range(4));
  const int64_t n_tokens = state.range(5);
  if (SkipUnavailable(state, isa)) return;
  const auto bytes = static_cast<size_t>(n_out * n_in) * DTypeBytes(type);
  const Buffer w = Numbers(bytes);
  const std::vector<float> x(n_tokens * n_in, 0.5f);
  std::vector<float> y(n_tokens * n_out);
  const DenseKernels& kernels = DenseKernelsFor(isa);
  ReadCeiling(n_threads);
  const bool pairs = type == DType::kI8 && n_tokens > 1;
  const Buffer prepared = Numbers(static_cast<size_t>(n_tokens) * Gemv8PreparedBytes(n_in));
  const std::vector<float> scale(n_out, 1.0f);
  for (auto _ : state) {
    for (int64_t t = 0; pairs && t < n_tokens; ++t) {
      kernels.gemv8.prepare(x.data() + t * n_in, n_in,
                            prepared.as<uint8_t>() + static_cast<size_t>(t) * Gemv8PreparedBytes(n_in));
    }
    ParallelFor(n_threads, (n_out + kTaskRows - 1) / kTaskRows, [&](int64_t task, int) {
      if (pairs) {
        return kernels.gemv8.run({.w = w.as<int8_t>(),
                                  .w_scale = scale.data(),
                                  .n_in = n_in,
                                  .row_begin = task * kTaskRows,
                                  .row_end = std::min(n_out, (task + 1) * kTaskRows),
                                  .x = prepared.data(),
                                  .n_tokens = n_tokens,
                                  .y = y.data(),
                                  .y_stride = n_out});
      }
      Gemv p{.w = w.data(),
             .w_type = type,
             .n_in = n_in,
             .x = x.data(),
             .n_tokens = n_tokens,
             .y = y.data(),
             .y_stride = n_out};
      p.row_begin = task * kTaskRows;
      p.row_end = std::min(n_out, p.row_begin + kTaskRows);
      kernels.gemv(p);
    });
    benchmark::DoNotOptimize(y.data());
  }
  ReportBandwidth(state, static_cast<double>(bytes), n_threads);
}

void GemvArgs(benchmark::internal::Benchmark* b) {
  b->ArgNames({"isa", "type", "n_out", "n_in", "threads", "tokens"})->UseRealTime()->Unit(benchmark::kMillisecond);
  const int max_threads = AvailableThreads();
  for (int threads = 1; threads <= max_threads; threads = threads < max_threads ? max_threads : max_threads + 1) {
    for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
      const int bf16_type = static_cast<int>(DType::kBF16);
      b->Args({static_cast<int>(isa), bf16_type, 4096, 4096, threads, 1});
      b->Args({static_cast<int>(isa), bf16_type, 14336, 4096, threads, 1});
      b->Args({static_cast<int>(isa), bf16_type, 4096, 14336, threads, 1});
      b->Args({static_cast<int>(isa), bf16_type, 128256, 4096, threads, 1});
      b->Args({static_cast<int>(isa), static_cast<int>(DType::kF16), 14336, 4096, threads, 1});
      b->Args({static_cast<int>(isa), static_cast<int>(DType::kF32), 14336, 4096, threads, 1});
    }
    // Steps of several sequences. Each weight is read from memory once for all of them.
    for (const int tokens : {1, 2, 4, 8, 16}) {
      for (const Isa isa : {Isa::kAvx2, Isa::kAvx512Vnni}) {
        for (const DType type : {DType::kBF16, DType::kI8}) {
          b->Args({static_cast<int>(isa), static_cast<int>(type), 32768, 2048, threads, tokens});
          b->Args({static_cast<int>(isa), static_cast<int>(type), 8192, 8192, threads, tokens});
        }
      }
    }
  }
}
BENCHMARK(BM_Gemv)->Apply(GemvArgs);

void BM_Gemm(benchmark::State& state) {
  const auto type = static_cast<DType>(state.range(0));
  const auto w_type = static_cast<DType>(state.range(1));
  const int64_t n_tokens = state.range(2), n_out = state.range(3), n_in = state.range(4);
  const int n_threads = AvailableThreads();
  const Buffer x = Numbers(static_cast<size_t>(n_tokens * n_in) * DTypeBytes(type));
  const Buffer w = Numbers(static_cast<size_t>(n_out * n_in) * DTypeBytes(w_type));
  const Buffer out = Numbers(static_cast<size_t>(n_tokens * n_out) * sizeof(float));
  GemmRunner runner(n_threads, DetectIsa());
  const Gemm gemm{.x = x.data(),
                  .x_type = type,
                  .n_tokens = n_tokens,
                  .n_in = n_in,
                  .w = w.data(),
                  .w_type = w_type,
                  .n_out = n_out,
                  .out = out.as<float>(),
                  .out_stride = n_out};
  GemmCeiling(type, n_threads);
  for (auto _ : state) {
    if (const Status status = runner.Run(gemm); !status.ok()) return state.SkipWithError(status.message().c_str());
  }
  const double total = 2e-9 * static_cast<double>(n_tokens * n_out * n_in) * static_cast<double>(state.iterations());
  state.counters["GFLOP_s"] = benchmark::Counter(total, benchmark::Counter::kIsRate);
  state.counters["of_ceiling"] = benchmark::Counter(total / GemmCeiling(type, n_threads), benchmark::Counter::kIsRate);
}

void GemmArgs(benchmark::internal::Benchmark* b) {
  b->ArgNames({"type", "w_type", "n_tokens", "n_out", "n_in"})->UseRealTime()->Unit(benchmark::kMillisecond);
  constexpr int kF32 = static_cast<int>(DType::kF32), kBF16 = static_cast<int>(DType::kBF16);
  for (const int tokens : {512, 64, 16, 8, 4}) {
    b->Args({kBF16, kBF16, tokens, 4096, 4096});
    b->Args({kBF16, kBF16, tokens, 14336, 4096});
    b->Args({kBF16, kBF16, tokens, 4096, 14336});
    b->Args({kF32, kF32, tokens, 4096, 4096});
    b->Args({kF32, kBF16, tokens, 4096, 4096});
    b->Args({kBF16, kF32, tokens, 4096, 4096});
  }
}
BENCHMARK(BM_Gemm)->Apply(GemmArgs);

void BM_ReadSum(benchmark::State& state) {
  const auto isa = static_cast<Isa>(state.range(0));
  if (SkipUnavailable(state, isa)) return;
  const Buffer block = Numbers(size_t{512} << 20);
  constexpr size_t kTaskBytes = size_t{2} << 20;
  for (auto _ : state) {
    for (size_t at = 0; at < block.bytes(); at += kTaskBytes) {
      benchmark::DoNotOptimize(DenseKernelsFor(isa).read_sum(block.as<uint8_t>() + at, kTaskBytes));
    }
  }
  ReportBandwidth(state, static_cast<double>(block.bytes()), 1);
}
BENCHMARK(BM_ReadSum)->ArgName("isa")->DenseRange(0, 2)->UseRealTime()->Unit(benchmark::kMillisecond);

// The small operations, on arrays that stay in the second-level cache. They are measured in elements per second.
constexpr int64_t kElements = 14336;

void BM_SwiGlu(benchmark::State& state) {
  const auto isa = static_cast<Isa>(state.range(0));
  if (SkipUnavailable(state, isa)) return;
  Rng rng(1);
  std::vector<float> gate(kElements), up(kElements, 1.0f), out(kElements);
  for (float& g : gate) g = static_cast<float>(rng.Uniform() * 16 - 8);
  for (auto _ : state) {
    DenseKernelsFor(isa).swiglu({.gate = gate.data(), .up = up.data(), .n = kElements, .out = out.data()});
    benchmark::DoNotOptimize(out.data());
  }
  state.SetItemsProcessed(state.iterations() * kElements);
}
BENCHMARK(BM_SwiGlu)->ArgName("isa")->DenseRange(0, 2);

void BM_RmsNorm(benchmark::State& state) {
  const auto isa = static_cast<Isa>(state.range(0));
  if (SkipUnavailable(state, isa)) return;
  std::vector<float> x(kElements, 0.5f), weight(kElements, 1.0f), out(kElements);
  for (auto _ : state) {
    DenseKernelsFor(isa).rms_norm(
        {.x = x.data(), .weight = weight.data(), .n_rows = 1, .dim = kElements, .out = out.data()});
    benchmark::DoNotOptimize(out.data());
  }
  state.SetItemsProcessed(state.iterations() * kElements);
}
BENCHMARK(BM_RmsNorm)->ArgName("isa")->DenseRange(0, 2);

void BM_F32ToBf16(benchmark::State& state) {
  const auto isa = static_cast<Isa>(state.range(0));
  if (SkipUnavailable(state, isa)) return;
  const std::vector<float> x(kElements, 0.3f);
  std::vector<bf16> out(kElements);
  for (auto _ : state) {
    DenseKernelsFor(isa).f32_to_bf16(x.data(), out.data(), kElements);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetItemsProcessed(state.iterations() * kElements);
}
BENCHMARK(BM_F32ToBf16)->ArgName("isa")->DenseRange(0, 2);

}  // namespace
}  // namespace duo
