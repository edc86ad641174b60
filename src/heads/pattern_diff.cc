#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "duo/head_report.h"

namespace duo {
namespace {

std::vector<double> Clipped(const HeadPattern& pattern) {
  std::vector<double> gates = pattern.gates;
  for (double& gate : gates) gate = std::clamp(gate, 0.0, 1.0);
  return gates;
}

// Ranks from 0; equal values share the mean of the ranks they cover.
std::vector<double> Ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return values[i] < values[j]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = (begin + end - 1) / 2.0;
    begin = end;
  }
  return ranks;
}

// Pearson's correlation of the ranks.
std::optional<double> Spearman(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> rank_a = Ranks(a);
  const std::vector<double> rank_b = Ranks(b);
  const double mean = (a.size() - 1.0) / 2.0;
  double aa = 0, bb = 0, ab = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    aa += (rank_a[i] - mean) * (rank_a[i] - mean);
    bb += (rank_b[i] - mean) * (rank_b[i] - mean);
    ab += (rank_a[i] - mean) * (rank_b[i] - mean);
  }
  if (aa == 0 || bb == 0) return std::nullopt;
  return ab / std::sqrt(aa * bb);
}

}  // namespace

Result<PatternDiff> DiffPatterns(const HeadPattern& a, const HeadPattern& b, double sparsity) {
  if (a.n_layers != b.n_layers || a.n_kv_heads != b.n_kv_heads) {
    return InvalidArgument("the first pattern is for {} layers x {} kv heads, the second for {} x {}", a.n_layers,
                           a.n_kv_heads, b.n_layers, b.n_kv_heads);
  }
  DUO_ASSIGN_OR_RETURN(const HeadChoice choice_a, ChooseBySparsity(a, sparsity));
  DUO_ASSIGN_OR_RETURN(const HeadChoice choice_b, ChooseBySparsity(b, sparsity));
  const std::vector<double> gates_a = Clipped(a);
  const std::vector<double> gates_b = Clipped(b);
  PatternDiff diff;
  diff.sparsity = sparsity;
  diff.rank_correlation = Spearman(gates_a, gates_b);
  for (size_t i = 0; i < gates_a.size(); ++i) {
    const double difference = std::fabs(gates_a[i] - gates_b[i]);
    diff.mean_abs_difference += difference / gates_a.size();
    diff.max_abs_difference = std::max(diff.max_abs_difference, difference);
    const bool in_a = choice_a.retrieval[i] != 0;
    const bool in_b = choice_b.retrieval[i] != 0;
    diff.n_both += in_a && in_b;
    if (in_a == in_b) continue;
    (in_a ? diff.n_only_a : diff.n_only_b) += 1;
    const int index = i;
    diff.differing.push_back({index / a.n_kv_heads, index % a.n_kv_heads, a.gates[i], b.gates[i], in_a});
  }
  return diff;
}

}  // namespace duo
