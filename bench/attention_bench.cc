// Measures attention kernels on one thread, for each instruction set and model shape. Decode is in GB/s of K and V that
// are read. Prefill is in GFLOP/s of visible query-key pairs, with 4 x head_dim operations each.
// The Read lines have the memory bandwidth of the same run. DecodeInCache decodes over rows in the second-level cache,
// so it shows the limit of the arithmetic alone.
// Pin it to one core: taskset -c 0 attention_bench
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/buffer.h"
#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/vec/isa.h"
#include "kernels/kv_codes.h"
#include "kernels/softmax_state.h"

namespace duo {
namespace {

struct ModelShape {
  const char* name;
  int head_dim;
  int group;
  int n_kv_heads;

  /// One token of one head.
  AttentionShape Attention(KvType type) const {
    return {.group = group,
            .head_dim = head_dim,
            .kv_type = type,
            .compute = type == KvType::kF32 ? ComputeType::kF32 : ComputeType::kBF16,
            .scale = 1.0f / std::sqrt(static_cast<float>(head_dim))};
  }
};

constexpr ModelShape kShapes[] = {
    {"llama3_8b", 128, 4, 8}, {"llama32_1b", 64, 4, 8}, {"llama2_7b", 128, 1, 32}, {"qwen25_7b", 128, 7, 4}};

// Cache rows, on huge pages if the system has them. The same 64 random rows are repeated.
class Rows {
 public:
  Rows(int64_t n, int head_dim, KvType type, KvPart part, uint64_t seed) {
    memory_ = VirtualBuffer::Reserve(KvBytes(type, head_dim, n)).value();
    if (!memory_.Commit(0, KvBytes(type, head_dim, n)).ok()) std::abort();
    Rng rng(seed);
    constexpr int64_t kSample = 64;
    std::vector<uint8_t> sample(KvBytes(type, head_dim, kSample));
    const KvFormat format = {part, type, head_dim};
    std::vector<float> row(head_dim);
    for (int64_t r = 0; r < kSample; ++r) {
      for (float& x : row) x = static_cast<float>(rng.Normal());
      uint8_t* to = sample.data() + r * KvRowBytes(type, head_dim);
      if (type == KvType::kF32) {
        std::memcpy(to, row.data(), KvRowBytes(type, head_dim));
      } else if (type == KvType::kBF16) {
        DenseKernelsFor(Isa::kPortable).f32_to_bf16(row.data(), reinterpret_cast<bf16*>(to), head_dim);
      } else {
        QuantizeRow(row.data(), format, sample.data(), r);
      }
    }
    for (int64_t r = 0; r < n; r += kSample) {
      CopyKvRows(format, sample.data(), 0, memory_.data(), r, std::min(kSample, n - r));
    }
  }
  const uint8_t* data() const { return memory_.data(); }

 private:
  VirtualBuffer memory_;
};

std::vector<float> Normal(size_t n) {
  Rng rng(3);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(rng.Normal());
  return x;
}

// Reads depth x n_kv_heads rows. Together the heads of a layer are too large to stay in the CPU's caches between calls;
// one short head stays there.
void Decode(benchmark::State& state, Isa isa, ModelShape shape, KvType type, int64_t depth) {
  const size_t head_bytes = KvBytes(type, shape.head_dim, depth);
  const Rows k(depth * shape.n_kv_heads, shape.head_dim, type, KvPart::kKeys, 1),
      v(depth * shape.n_kv_heads, shape.head_dim, type, KvPart::kValues, 2);
  const std::vector<float> q = Normal(static_cast<size_t>(shape.group) * shape.head_dim);
  std::vector<float> max(shape.group), sum(shape.group), acc(q.size());
  const AttentionKernels& kernels = AttentionKernelsFor(isa);
  for (auto _ : state) {
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      std::fill(max.begin(), max.end(), kNegInf);
      std::fill(sum.begin(), sum.end(), 0.0f);
      std::fill(acc.begin(), acc.end(), 0.0f);
      kernels.decode({.shape = shape.Attention(type),
                      .head = {.q = q.data(),
                               .k = k.data() + static_cast<size_t>(h) * head_bytes,
                               .v = v.data() + static_cast<size_t>(h) * head_bytes},
                      .rows = {0, depth},
                      .states = {.max = max.data(), .sum = sum.data(), .acc = acc.data()}});
      benchmark::DoNotOptimize(acc.data());
    }
  }
  const double bytes = 2.0 * static_cast<double>(head_bytes) * shape.n_kv_heads;
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void Prefill(benchmark::State& state, Isa isa, ModelShape shape, KvType type, int64_t depth, LambdaMask mask) {
  const int64_t chunk = 512;
  const bool streaming = mask.window != kWholeContext;
  const int64_t body_pos = streaming ? depth - mask.window + 1 : 0;
  const int64_t n_rows = (streaming ? mask.sink : 0) + depth + chunk - body_pos;
  const Rows k(n_rows, shape.head_dim, type, KvPart::kKeys, 1), v(n_rows, shape.head_dim, type, KvPart::kValues, 2);
  const int64_t stride = int64_t{shape.group} * shape.head_dim;
  const std::vector<float> q = Normal(static_cast<size_t>(chunk * stride));
  std::vector<float> out(q.size());
  const Buffer scratch = Buffer::Allocate(PrefillScratchBytes(shape.group, shape.head_dim)).value();
  const AttentionKernels& kernels = AttentionKernelsFor(isa);
  const int64_t block = PrefillBlockTokens(shape.group, shape.head_dim);
  for (auto _ : state) {
    for (int64_t t = 0; t < chunk; t += block) {
      PrefillAttention a{.shape = shape.Attention(type),
                         .head = {.q = q.data() + t * stride,
                                  .k = k.data(),
                                  .v = v.data(),
                                  .n_rows = n_rows,
                                  .n_sink_rows = streaming ? mask.sink : 0,
                                  .body_pos = body_pos,
                                  .mask = mask,
                                  .out = out.data() + t * stride},
                         .scratch = scratch.data()};
      a.shape.q_stride = stride;
      a.shape.q_pos = depth + t;
      a.shape.n_tokens = std::min(block, chunk - t);
      kernels.prefill(a);
    }
    benchmark::DoNotOptimize(out.data());
  }
  double pairs = 0;
  for (int64_t t = 0; t < chunk; ++t) {
    pairs += static_cast<double>(streaming ? mask.sink + mask.window : depth + t + 1);
  }
  state.counters["GFLOP/s"] = benchmark::Counter(4e-9 * pairs * static_cast<double>(shape.group * shape.head_dim),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}

void Read(benchmark::State& state, Isa isa) {
  const size_t bytes = size_t{1} << 28;
  const Rows memory(static_cast<int64_t>(bytes / 512), 128, KvType::kF32, KvPart::kKeys, 1);
  const DenseKernels& kernels = DenseKernelsFor(isa);
  for (auto _ : state) benchmark::DoNotOptimize(kernels.read_sum(memory.data(), bytes));
  state.counters["GB/s"] =
      benchmark::Counter(static_cast<double>(bytes) * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void RegisterAll() {
  for (const Isa isa : {Isa::kAvx512Bf16, Isa::kAvx512Vnni, Isa::kAvx512, Isa::kAvx2, Isa::kPortable}) {
    if (isa > DetectIsa()) continue;
    const std::string level = IsaName(isa);
    benchmark::RegisterBenchmark(("Read/" + level).c_str(), Read, isa)->Unit(benchmark::kMillisecond);
    for (const ModelShape& shape : kShapes) {
      for (const KvType type : {KvType::kBF16, KvType::kInt8, KvType::kInt4, KvType::kF32}) {
        const std::string tail = std::string("/") + KvTypeName(type) + "/" + shape.name + "/" + level;
        benchmark::RegisterBenchmark(("Decode32k" + tail).c_str(), Decode, isa, shape, type, 32768)
            ->Unit(benchmark::kMillisecond);
        ModelShape one_head = shape;
        one_head.n_kv_heads = 1;
        benchmark::RegisterBenchmark(("DecodeInCache" + tail).c_str(), Decode, isa, one_head, type, 1024);
        benchmark::RegisterBenchmark(("Prefill512At32k" + tail).c_str(), Prefill, isa, shape, type, 32768, LambdaMask{})
            ->Unit(benchmark::kMillisecond);
        benchmark::RegisterBenchmark(("Streaming512" + tail).c_str(), Prefill, isa, shape, type, 32768,
                                     LambdaMask{.sink = 128, .window = 256})
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  duo::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
