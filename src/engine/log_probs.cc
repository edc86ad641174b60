#include "engine/log_probs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace duo {

LogProbs LogProbsOf(std::span<const float> logits, int32_t id, int n_top) {
  DUO_CHECK(id >= 0 && static_cast<size_t>(id) < logits.size(), "the id must be in the vocabulary");
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
  const double log_sum = most + std::log(sum);
  const auto at = [&](int32_t token) { return TokenLogProb{token, static_cast<double>(logits[token]) - log_sum}; };
  LogProbs result;
  result.chosen = at(id);
  const auto n = std::min(static_cast<size_t>(std::max(n_top, 0)), logits.size());
  if (n == 0) return result;
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + n, ids.end(), [&](int32_t a, int32_t b) {
    const float x = logits[a], y = logits[b];
    return x != y ? x > y : a < b;
  });
  for (size_t i = 0; i < n; ++i) result.top.push_back(at(ids[i]));
  return result;
}

}  // namespace duo
