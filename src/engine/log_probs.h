// Log probabilities of tokens, computed from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace duo {

struct TokenLogProb {
  int32_t id = -1;
  double log_prob = 0;
};

struct LogProbs {
  TokenLogProb chosen;
  std::vector<TokenLogProb> top;  // most likely first; ties by id
};

/// Log softmax of finite `logits` [vocab] (no temperature, no penalties) at `id` and at the n_top most likely tokens.
LogProbs LogProbsOf(std::span<const float> logits, int32_t id, int n_top);

}  // namespace duo
