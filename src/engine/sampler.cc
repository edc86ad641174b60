#include "duo/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "base/rng.h"

namespace duo {
namespace {

Status OutOfRange(const char* name, double value, const char* range) {
  return Status(StatusCode::kInvalidArgument, std::string(name) + ": " + std::to_string(value) + " is not " + range);
}

}  // namespace

Status CheckSamplerOptions(const SamplerOptions& o) {
  // Negated comparisons, so that NaN is refused too.
  if (!(o.temperature >= 0 && o.temperature <= 100)) return OutOfRange("temperature", o.temperature, "in 0..100");
  if (o.top_k < 0) return OutOfRange("top-k", static_cast<double>(o.top_k), "0 or more");
  if (!(o.top_p > 0 && o.top_p <= 1)) return OutOfRange("top-p", o.top_p, "in (0, 1]");
  if (!(o.min_p >= 0 && o.min_p <= 1)) return OutOfRange("min-p", o.min_p, "in [0, 1]");
  if (!(o.repetition_penalty > 0 && o.repetition_penalty <= 100)) {
    return OutOfRange("repetition-penalty", o.repetition_penalty, "in (0, 100]");
  }
  if (o.repetition_window < 0) return OutOfRange("repetition-window", static_cast<double>(o.repetition_window), "0 or more");
  return OkStatus();
}

Sampler::Sampler(const SamplerOptions& options) : options_(options) {}

int32_t Sampler::Sample(std::span<const float> logits, std::span<const int32_t> history) {
  DUO_CHECK(!logits.empty(), "sampling needs logits");
  if (options_.repetition_penalty != 1) {
    penalised_.assign(logits.begin(), logits.end());
    const size_t window = options_.repetition_window == 0
                              ? history.size()
                              : std::min(history.size(), static_cast<size_t>(options_.repetition_window));
    std::vector<int32_t> seen(history.end() - static_cast<std::ptrdiff_t>(window), history.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    for (const int32_t id : seen) {
      if (static_cast<size_t>(id) >= penalised_.size()) continue;
      float& logit = penalised_[static_cast<size_t>(id)];
      logit = logit > 0 ? logit / penalty : logit * penalty;
    }
    logits = penalised_;
  }
  if (options_.temperature == 0 || options_.top_k == 1) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  // Likeliest first; equal logits by id, so that the result is the same everywhere.
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  size_t keep = candidates_.size();
  if (options_.top_k > 0) keep = std::min(keep, static_cast<size_t>(options_.top_k));
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(keep), candidates_.end(), likelier);
  candidates_.resize(keep);
  std::vector<double> weight;
  double total = 0;
  for (const Candidate& c : candidates_) {
    weight.push_back(std::exp((static_cast<double>(c.logit) - candidates_[0].logit) / options_.temperature));
    total += weight.back();
  }
  if (options_.top_p < 1) {
    double mass = 0;
    size_t n = 0;
    while (n < keep && mass < options_.top_p * total) mass += weight[n++];
    keep = std::max<size_t>(n, 1);
    total = mass;
  }
  while (keep > 1 && weight[keep - 1] < options_.min_p * weight[0]) total -= weight[--keep];
  // Each draw has a generator of its own, so that a draw depends on (seed, number of the draw) alone.
  Rng rng(options_.seed * 0x9e3779b97f4a7c15ull + ++draws_);
  double point = rng.Uniform() * total;
  for (size_t i = 0; i + 1 < keep; ++i) {
    if (point < weight[i]) return candidates_[i].id;
    point -= weight[i];
  }
  return candidates_[keep - 1].id;
}

}  // namespace duo
