// The shape of a small model for tests.
#pragma once

#include <cmath>

#include "duo/model.h"

namespace duo {

/// 3 layers, 4 q heads, 2 KV heads of 16. Model::Random makes its weights.
inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.name = "tiny";
  config.model_type = "llama";
  config.n_layers = 3;
  config.n_heads = 4;
  config.n_kv_heads = 2;
  config.head_dim = 16;
  config.hidden_size = 48;
  config.intermediate_size = 80;
  config.vocab_size = 97;
  config.trained_context = 600;
  for (int i = 0; i < 8; ++i) config.inv_freq.push_back(std::pow(10000.0, -i / 8.0));
  return config;
}

}  // namespace duo
