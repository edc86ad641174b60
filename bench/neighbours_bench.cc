// Measures decoding while other programs are running. Compares one thread with all threads, with and without busy
// neighbours. Rounds alternate, because a shared machine changes from second to second. Prints the median and the 90th
// percentile of the time per token.
//
//   neighbours_bench CONFIG.json [--weights native|int8|int4] [--layers N] [--threads N] [--neighbours N] [--steps N]
//                    [--rounds N]
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "duo/session.h"

namespace duo {
namespace {

struct Options {
  std::string config;
  WeightType weights = WeightType::kNative;
  int layers = 0;   // 0 = all
  int threads = 0;  // 0 = all cores
  int neighbours = 1;
  int steps = 32;
  int rounds = 9;
};

/// Threads that keep cores busy, as another program would.
class Neighbours {
 public:
  explicit Neighbours(int n) {
    for (int i = 0; i < n; ++i) {
      threads_.emplace_back([this] {
        while (!stop_.load(std::memory_order_relaxed)) {
        }
      });
    }
  }
  ~Neighbours() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  Neighbours(const Neighbours&) = delete;
  Neighbours& operator=(const Neighbours&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

/// A model, a session and its measured times, for one number of threads.
struct Contender {
  BackendPtr backend;
  Model model;
  Session session;
  std::vector<double> calm_ms, busy_ms;  // per token
};

Result<Contender> Make(const Options& options, const ModelConfig& config, int n_threads) {
  DUO_ASSIGN_OR_RETURN(BackendPtr backend, CreateBackend({.n_threads = n_threads}));
  ModelOptions model_options;
  model_options.weights = options.weights;
  DUO_ASSIGN_OR_RETURN(Model model, Model::Random(config, options.layers, 1, backend.get(), model_options));
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model, {}));
  DUO_RETURN_IF_ERROR(session.FillSynthetic(64, 1));
  return Contender{std::move(backend), std::move(model), std::move(session), {}, {}};
}

Status Decode(Session* session, int steps, std::vector<double>* ms) {
  for (int step = 0; step < steps; ++step) {
    const auto begin = Clock::now();
    DUO_RETURN_IF_ERROR(session->Decode(1));
    ms->push_back(SecondsSince(begin) * 1e3);
  }
  return session->Rewind(64);
}

double Quantile(std::vector<double> values, double q) {
  const auto at = static_cast<std::ptrdiff_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[at];
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

Status Run(const Options& options) {
  DUO_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(options.config));
  std::vector<Contender> contenders;
  for (const int n_threads : {1, options.threads}) {
    DUO_ASSIGN_OR_RETURN(Contender contender, Make(options, config, n_threads));
    contenders.push_back(std::move(contender));
  }
  for (int round = -1; round < options.rounds; ++round) {  // the first one warms up
    for (Contender& contender : contenders) {
      std::vector<double> unused;
      const auto keep = [&](std::vector<double>* ms) { return round < 0 ? &unused : ms; };
      DUO_RETURN_IF_ERROR(Decode(&contender.session, options.steps, keep(&contender.calm_ms)));
      const Neighbours neighbours(options.neighbours);
      DUO_RETURN_IF_ERROR(Decode(&contender.session, options.steps, keep(&contender.busy_ms)));
    }
  }
  std::printf("%s, %d layers, %s\n", config.name.c_str(), contenders[0].model.config().n_layers,
              contenders[1].backend->Describe().c_str());
  std::printf("threads  neighbours  tokens/s  median ms  p90 ms\n");
  for (const Contender& contender : contenders) {
    for (const auto* ms : {&contender.calm_ms, &contender.busy_ms}) {
      std::printf("%7d  %10d  %8.1f  %9.2f  %6.2f\n", BackendThreads(*contender.backend),
                  ms == &contender.calm_ms ? 0 : options.neighbours, 1e3 / Mean(*ms), Quantile(*ms, 0.5),
                  Quantile(*ms, 0.9));
    }
  }
  return OkStatus();
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  duo::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto number = [&] { return i + 1 < argc ? std::atoi(argv[++i]) : 0; };
    if (flag == "--layers") {
      options.layers = number();
    } else if (flag == "--threads") {
      options.threads = number();
    } else if (flag == "--neighbours") {
      options.neighbours = number();
    } else if (flag == "--steps") {
      options.steps = number();
    } else if (flag == "--rounds") {
      options.rounds = number();
    } else if (flag == "--weights" && i + 1 < argc) {
      const std::string type = argv[++i];
      options.weights = type == "int4"   ? duo::WeightType::kInt4
                        : type == "int8" ? duo::WeightType::kInt8
                                         : duo::WeightType::kNative;
    } else {
      options.config = flag;
    }
  }
  if (options.config.empty() || options.steps < 1 || options.rounds < 1) {
    std::fprintf(stderr,
                 "usage: neighbours_bench CONFIG.json [--weights TYPE] [--layers N] [--threads N] "
                 "[--neighbours N] [--steps N] [--rounds N]\n");
    return 2;
  }
  const duo::Status status = duo::Run(options);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
