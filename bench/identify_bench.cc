// Measures one step of `duo identify --method optimize`, and `--method repeat`, on the shape of a real model with
// random weights. Prints times, GFLOP/s and the machine's ceiling in the same run, and planned and used memory.
//
//   identify_bench CONFIG [TOKENS=4096] [THREADS=0] [LAYERS=0] [optimize|repeat]
//
// CONFIG is a config.json or a model directory. Without the last word both methods are measured.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/meter.h"
#include "base/clock.h"
#include "base/memory_info.h"
#include "base/rng.h"
#include "duo/model.h"
#include "duo/session.h"
#include "identify/head_scores.h"
#include "identify/teacher_student.h"

namespace duo {
namespace {

constexpr int kSteps = 3;  // timed steps, after one that is not timed

template <typename T>
T Must(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::fprintf(stderr, "identify_bench: %s\n", result.status().message().c_str());
  std::exit(1);
}

void Must(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "identify_bench: %s\n", status.message().c_str());
  std::exit(1);
}

double Median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

void BenchOptimize(const Model& model, const std::vector<int32_t>& ids) {
  const auto n = std::ssize(ids);
  const TwoStreamOptions options{.sink = 128, .recent = 256, .max_tokens = n};
  const uint64_t planned = TeacherStudent::Bytes(model, options) + model.weights_bytes();
  TeacherStudent streams = Must(TeacherStudent::Create(model, options));
  const auto n_gates = static_cast<size_t>(model.config().n_layers) * static_cast<size_t>(model.config().n_kv_heads);
  const std::vector<double> gates(n_gates, 0.5);
  std::vector<double> seconds;
  for (int i = 0; i <= kSteps; ++i) {
    const auto begin = Clock::now();
    Must(streams.Loss(ids, {n * 3 / 4, n}, gates));
    if (i > 0) seconds.push_back(SecondsSince(begin));
  }
  const double ceiling = Must(model.backend()->meter()->MeasureGemm(ComputeType::kBF16));
  const double rate = TeacherStudent::Flops(model.config(), options, n) / Median(seconds) * 1e-9;
  std::printf("optimize: step of %lld tokens %.2f s, %.0f GFLOP/s, ceiling %.0f GFLOP/s (%.0f %%)\n",
              static_cast<long long>(n), Median(seconds), rate, ceiling, 100 * rate / ceiling);
  std::printf("          planned %s (weights %s), peak RSS %s\n", FormatBytes(planned).c_str(),
              FormatBytes(model.weights_bytes()).c_str(), FormatBytes(PeakRssBytes()).c_str());
}

// The text and its repetition are each as long as `ids`. For comparison the same number of tokens is prefilled by a
// session.
void BenchRepeat(const Model& model, const std::vector<int32_t>& ids) {
  std::vector<int32_t> twice = ids;
  twice.insert(twice.end(), ids.begin(), ids.end());
  SessionOptions options;
  options.max_context = std::ssize(twice);
  Session session = Must(Session::Create(model, options));
  Must(session.Prefill(std::span(twice).first(std::min<size_t>(twice.size(), 512))));
  Must(session.Rewind(0));
  auto begin = Clock::now();
  Must(session.Prefill(twice));
  const double plain = SecondsSince(begin);
  begin = Clock::now();
  Must(RepeatScores(model, {.context = ids, .prompt = {}}, {}));
  const double repeat = SecondsSince(begin);
  std::printf("repeat:   %zu tokens %.2f s, plain prefill of %zu tokens %.2f s (%.2fx)\n", ids.size(), repeat,
              twice.size(), plain, repeat / plain);
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: identify_bench CONFIG [TOKENS] [THREADS] [LAYERS] [optimize|repeat]\n");
    return 2;
  }
  const auto number = [&](int i, long fallback) { return argc > i ? std::strtol(argv[i], nullptr, 10) : fallback; };
  const BackendPtr backend = Must(CreateBackend({.n_threads = static_cast<int>(number(3, 0))}));
  const ModelConfig config = Must(LoadModelConfig(argv[1]));
  const Model model = Must(Model::Random(config, static_cast<int>(number(4, 0)), 1, backend.get()));
  std::printf("%s, %d layers, %s\n", config.name.c_str(), model.config().n_layers, DescribeBackend(*backend).c_str());
  Rng rng(1);
  std::vector<int32_t> ids(std::max(16L, number(2, 4096)));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(config.vocab_size)));
  const std::string method = argc > 5 ? argv[5] : "";
  if (method != "repeat") BenchOptimize(model, ids);
  if (method != "optimize") BenchRepeat(model, ids);
  return 0;
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) { return duo::Main(argc, argv); }
