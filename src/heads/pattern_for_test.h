// A small head pattern for tests.
#pragma once

#include <utility>
#include <vector>

#include "duo/head_pattern.h"

namespace duo {

/// A pattern with `gates` [n_layers, n_kv_heads], which are not checked, and an empty config.
inline HeadPattern MakePattern(int n_layers, int n_kv_heads, std::vector<double> gates) {
  HeadPattern pattern;
  pattern.n_layers = n_layers;
  pattern.n_kv_heads = n_kv_heads;
  pattern.gates = std::move(gates);
  pattern.config_json = "{}";
  return pattern;
}

}  // namespace duo
