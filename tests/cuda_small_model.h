// A small model, a prompt and session options for tests of the CUDA backend.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/rng.h"
#include "duo/session.h"
#include "model/tiny_config_for_test.h"

namespace duo::cuda_test {

/// Tensor cores need head_dim 64.
inline ModelConfig Config(int head_dim = 16) {
  ModelConfig config = TinyConfig();
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.vocab_size = 100;
  config.head_dim = head_dim;
  config.inv_freq.resize(static_cast<size_t>(head_dim) / 2);
  for (size_t i = 0; i < config.inv_freq.size(); ++i) {
    config.inv_freq[i] = std::pow(10000.0, -2.0 * static_cast<double>(i) / head_dim);
  }
  return config;
}

inline SessionOptions Options(ComputeType compute, KvType kv_type) {
  SessionOptions options;
  options.heads = AllRetrieval(3, 2);
  for (size_t i = 0; i < options.heads.retrieval.size(); i += 2) options.heads.retrieval[i] = 0;
  options.sink = 4;
  options.recent = 10;
  options.chunk = 24;
  options.snapshot_every = 16;
  options.compute = compute;
  options.kv_type = kv_type;
  return options;
}

inline std::vector<int32_t> Prompt(int64_t n) {
  Rng rng(4);
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(100));
  return ids;
}

}  // namespace duo::cuda_test
