// Compares several sequences that decode together with one alone. The difference is the gain of sharing a pass over
// the weights. Rounds alternate, because memory bandwidth drifts. Prints medians of times and of the rounds' ratios.
//
//   together_bench CONFIG.json [--weights native|int8|int4] [--layers N] [--depth TOKENS] [--steps N] [--rounds N]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "duo/session.h"

namespace duo {
namespace {

struct Options {
  std::string config;
  WeightType weights = WeightType::kNative;
  int layers = 0;  // 0 = all
  int64_t depth = 256;
  int steps = 8;
  int rounds = 7;
};

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + (values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// Seconds per step if the first n sessions decode together.
Result<double> Time(std::vector<Session>* sessions, int n, int steps) {
  std::vector<Session*> who;
  for (int i = 0; i < n; ++i) who.push_back(&(*sessions)[i]);
  const std::vector<int32_t> ids(n, 1);
  const auto begin = Clock::now();
  for (int step = 0; step < steps; ++step) DUO_RETURN_IF_ERROR(Session::DecodeTogether(who, ids));
  return SecondsSince(begin) / steps;
}

Status Run(const Options& options) {
  DUO_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(options.config));
  DUO_ASSIGN_OR_RETURN(const BackendPtr backend, CreateBackend({}));
  ModelOptions model_options;
  model_options.weights = options.weights;
  DUO_ASSIGN_OR_RETURN(const Model model, Model::Random(config, options.layers, 1, backend.get(), model_options));
  SessionOptions session_options;
  DUO_ASSIGN_OR_RETURN(Workspace workspace, Workspace::Create(model, session_options));
  constexpr int kCounts[] = {1, 2, 4, 8, 16};
  std::vector<Session> sessions;
  for (int i = 0; i < 16; ++i) {
    DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model, session_options, &workspace));
    DUO_RETURN_IF_ERROR(session.FillSynthetic(options.depth, static_cast<uint64_t>(i)));
    sessions.push_back(std::move(session));
  }
  std::vector<double> seconds[std::size(kCounts)], ratios[std::size(kCounts)];
  for (int round = -1; round < options.rounds; ++round) {  // the first one warms up
    double alone = 0;
    for (size_t i = 0; i < std::size(kCounts); ++i) {
      DUO_ASSIGN_OR_RETURN(const double each, Time(&sessions, kCounts[i], options.steps));
      if (i == 0) alone = each;
      if (round < 0) continue;
      seconds[i].push_back(each);
      ratios[i].push_back(kCounts[i] * alone / each);
    }
  }
  std::printf("%s, %d layers, weights %.2f GiB, depth %lld, %s\n", config.name.c_str(), model.config().n_layers,
              static_cast<double>(model.weights_bytes()) / (1 << 30), static_cast<long long>(options.depth),
              backend->Describe().c_str());
  std::printf("sequences  ms/step  tokens/s  times one alone\n");
  for (size_t i = 0; i < std::size(kCounts); ++i) {
    const double each = Median(seconds[i]);
    std::printf("%9d  %7.2f  %8.1f  %15.2f\n", kCounts[i], each * 1e3, kCounts[i] / each, Median(ratios[i]));
  }
  return OkStatus();
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  duo::Options options;
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: together_bench CONFIG.json [--weights T] [--layers N] [--depth N] [--steps N] [--rounds N]\n");
    return 2;
  }
  options.config = argv[1];
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--weights") {
      options.weights = value == "int8"   ? duo::WeightType::kInt8
                        : value == "int4" ? duo::WeightType::kInt4
                                          : duo::WeightType::kNative;
    } else if (flag == "--layers") {
      options.layers = std::atoi(value.c_str());
    } else if (flag == "--depth") {
      options.depth = std::atoll(value.c_str());
    } else if (flag == "--steps") {
      options.steps = std::atoi(value.c_str());
    } else if (flag == "--rounds") {
      options.rounds = std::atoi(value.c_str());
    } else {
      std::fprintf(stderr, "together_bench: unknown flag %s\n", flag.c_str());
      return 2;
    }
  }
  const duo::Status status = duo::Run(options);
  if (!status.ok()) std::fprintf(stderr, "together_bench: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
