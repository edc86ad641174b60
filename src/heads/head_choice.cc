// Chooses retrieval heads by their gates.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "duo/head_pattern.h"

namespace duo {
namespace {

size_t CountHeads(int n_layers, int n_kv_heads) { return static_cast<size_t>(n_layers) * n_kv_heads; }

double Clip(double gate) { return std::clamp(gate, 0.0, 1.0); }

/// Refuses NaN, which has no place in an order of gates.
Status CheckGates(const HeadPattern& pattern) {
  for (const double gate : pattern.gates) {
    if (std::isnan(gate)) return InvalidArgument("a gate of the pattern is NaN");
  }
  return OkStatus();
}

HeadChoice NoRetrieval(int n_layers, int n_kv_heads) {
  HeadChoice choice;
  choice.n_layers = n_layers;
  choice.n_kv_heads = n_kv_heads;
  choice.retrieval.assign(CountHeads(n_layers, n_kv_heads), 0);
  return choice;
}

// N - ceil(s*(N-1)): the number of gates above the reference's quantile if no two gates are equal.
Result<size_t> CountToKeep(size_t n_heads, double sparsity) {
  if (!(sparsity >= 0.0 && sparsity <= 1.0)) {
    return InvalidArgument("sparsity {}, expected 0..1", sparsity);
  }
  if (sparsity == 0.0 || n_heads == 0) return n_heads;
  if (sparsity == 1.0) return size_t{0};
  return n_heads - static_cast<size_t>(std::ceil(sparsity * (n_heads - 1)));
}

}  // namespace

int HeadChoice::n_retrieval() const {
  return std::count_if(retrieval.begin(), retrieval.end(), [](uint8_t r) { return r != 0; });
}

int HeadChoice::n_retrieval_in(int layer) const {
  int n = 0;
  for (int head = 0; head < n_kv_heads; ++head) n += is_retrieval(layer, head) ? 1 : 0;
  return n;
}

double HeadChoice::sparsity() const {
  if (retrieval.empty()) return 0.0;
  return 1.0 - static_cast<double>(n_retrieval()) / retrieval.size();
}

HeadChoice AllRetrieval(int n_layers, int n_kv_heads) {
  HeadChoice choice = NoRetrieval(n_layers, n_kv_heads);
  std::fill(choice.retrieval.begin(), choice.retrieval.end(), uint8_t{1});
  return choice;
}

Result<HeadChoice> ChooseBySparsity(const HeadPattern& pattern, double sparsity) {
  DUO_RETURN_IF_ERROR(CheckGates(pattern));
  HeadChoice choice = NoRetrieval(pattern.n_layers, pattern.n_kv_heads);
  DUO_ASSIGN_OR_RETURN(const size_t n_keep, CountToKeep(choice.retrieval.size(), sparsity));
  std::vector<size_t> order(choice.retrieval.size());  // index = layer * n_kv_heads + head; ties keep this order
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return Clip(pattern.gates[a]) > Clip(pattern.gates[b]); });
  for (size_t i = 0; i < n_keep; ++i) choice.retrieval[order[i]] = 1;
  return choice;
}

// Minimises |gate - 1| summed over kept layers plus |gate - 0| summed over the others. Keeping a layer instead of
// dropping it changes the sum by n_kv_heads - 2 * (sum of its gates), so the layers with the largest sums are kept.
Result<HeadChoice> ChooseLayersBySparsity(const HeadPattern& pattern, double sparsity) {
  DUO_RETURN_IF_ERROR(CheckGates(pattern));
  HeadChoice choice = NoRetrieval(pattern.n_layers, pattern.n_kv_heads);
  const size_t n_layers = pattern.n_layers, n_heads = pattern.n_kv_heads;
  DUO_ASSIGN_OR_RETURN(const size_t n_keep, CountToKeep(n_layers, sparsity));
  std::vector<double> sums(n_layers, 0.0);
  for (size_t i = 0; i < choice.retrieval.size(); ++i) sums[i / n_heads] += Clip(pattern.gates[i]);
  std::vector<size_t> order(n_layers);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sums[a] > sums[b]; });
  for (size_t i = 0; i < n_keep; ++i) std::fill_n(choice.retrieval.begin() + (order[i] * n_heads), n_heads, uint8_t{1});
  return choice;
}

HeadChoice ChooseByThreshold(const HeadPattern& pattern, double threshold) {
  HeadChoice choice = NoRetrieval(pattern.n_layers, pattern.n_kv_heads);
  for (size_t i = 0; i < choice.retrieval.size(); ++i) choice.retrieval[i] = Clip(pattern.gates[i]) >= threshold;
  return choice;
}

Result<HeadChoice> ChooseAtRandom(int n_layers, int n_kv_heads, double sparsity, uint64_t seed) {
  if (n_layers < 0 || n_kv_heads < 0) {
    return InvalidArgument("{} layers x {} kv heads, expected at least 0 of each", n_layers, n_kv_heads);
  }
  HeadChoice choice = NoRetrieval(n_layers, n_kv_heads);
  DUO_ASSIGN_OR_RETURN(const size_t n_keep, CountToKeep(choice.retrieval.size(), sparsity));
  std::vector<size_t> order(choice.retrieval.size());
  std::iota(order.begin(), order.end(), size_t{0});
  Rng rng(seed);
  for (size_t i = 0; i < n_keep; ++i) {  // the first n_keep steps of a Fisher-Yates shuffle
    std::swap(order[i], order[i + rng.Below(order.size() - i)]);
    choice.retrieval[order[i]] = 1;
  }
  return choice;
}

HeadPattern ToPattern(const HeadChoice& choice, const HeadPattern& from) {
  HeadPattern pattern = from;
  pattern.n_layers = choice.n_layers;
  pattern.n_kv_heads = choice.n_kv_heads;
  pattern.gates.assign(choice.retrieval.size(), 0.0);
  for (size_t i = 0; i < choice.retrieval.size(); ++i) pattern.gates[i] = choice.retrieval[i] != 0 ? 1.0 : 0.0;
  return pattern;
}

}  // namespace duo
