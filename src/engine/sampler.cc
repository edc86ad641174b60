#include "duo/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "base/finite.h"
#include "base/rng.h"

namespace duo {
namespace {

Status OutOfRange(const char* option, double value, const char* range) {
  return BadOption(option, fmt::format("{:f}", value), range);
}

}  // namespace

Status CheckSamplerOptions(const SamplerOptions& o) {
  // The comparisons are negated so that NaN is refused too.
  if (!(o.temperature >= 0 && o.temperature <= 100))
    return OutOfRange("temperature", o.temperature, "a number in 0..100");
  if (o.top_k < 0) return OutOfRange("top_k", static_cast<double>(o.top_k), "0 or more");
  if (!(o.top_p > 0 && o.top_p <= 1)) return OutOfRange("top_p", o.top_p, "a number in (0, 1]");
  if (!(o.min_p >= 0 && o.min_p <= 1)) return OutOfRange("min_p", o.min_p, "a number in [0, 1]");
  if (!(o.repetition_penalty > 0 && o.repetition_penalty <= 100)) {
    return OutOfRange("repetition_penalty", o.repetition_penalty, "a number in (0, 100]");
  }
  if (o.repetition_window < 0) {
    return OutOfRange("repetition_window", static_cast<double>(o.repetition_window), "0 or more");
  }
  if (!(std::fabs(o.frequency_penalty) <= 2))
    return OutOfRange("frequency_penalty", o.frequency_penalty, "a number in -2..2");
  if (!(std::fabs(o.presence_penalty) <= 2))
    return OutOfRange("presence_penalty", o.presence_penalty, "a number in -2..2");
  for (const auto& [id, bias] : o.bias) {
    if (id < 0) return OutOfRange("bias", id, "token ids of 0 or more");
    if (!(std::fabs(bias) <= 100)) return OutOfRange("bias", bias, "numbers in -100..100");
  }
  return OkStatus();
}

Sampler::Sampler(const SamplerOptions& options) : options_(options) {}

bool Sampler::ChangesLogits() const {
  return options_.repetition_penalty != 1 || options_.frequency_penalty != 0 || options_.presence_penalty != 0 ||
         !options_.bias.empty();
}

std::span<const float> Sampler::Changed(std::span<const float> logits, std::span<const int32_t> history) {
  penalised_.assign(logits.begin(), logits.end());
  const auto known = [&](int32_t id) { return static_cast<size_t>(id) < penalised_.size(); };
  for (const auto& [id, bias] : options_.bias) {
    if (known(id)) penalised_[id] += bias;
  }
  for (const auto& [id, times] : chosen_) {
    if (!known(id)) continue;
    const double taken = options_.presence_penalty + options_.frequency_penalty * static_cast<double>(times);
    penalised_[id] -= static_cast<float>(taken);
  }
  if (options_.repetition_penalty != 1) Penalise(history);
  // A penalty may make a large logit infinite. Infinities are clamped, because two of them have no order.
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (float& logit : penalised_) logit = std::clamp(logit, -kLargest, kLargest);
  return penalised_;
}

void Sampler::Penalise(std::span<const int32_t> history) {
  const size_t window = options_.repetition_window == 0
                            ? history.size()
                            : std::min(history.size(), static_cast<size_t>(options_.repetition_window));
  std::vector<int32_t> seen(history.end() - window, history.end());
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  for (const int32_t id : seen) {
    if (static_cast<size_t>(id) >= penalised_.size()) continue;
    float& logit = penalised_[id];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

int32_t Sampler::Sample(std::span<const float> logits, std::span<const int32_t> history) {
  // A NaN could leave no token to draw, and the choice of greedy decoding would depend on the NaN's position.
  DUO_CHECK(!logits.empty() && AllFinite(logits), "sampling needs finite logits");
  const int32_t id = Choose(ChangesLogits() ? Changed(logits, history) : logits);
  if (options_.frequency_penalty != 0 || options_.presence_penalty != 0) ++chosen_[id];
  return id;
}

int32_t Sampler::Choose(std::span<const float> logits) {
  if (options_.temperature == 0 || options_.top_k == 1) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  Collect(logits);
  // Each draw has a generator of its own, so that it depends only on the seed and the number of the draw.
  Rng rng(options_.seed * 0x9e3779b97f4a7c15ull + ++draws_);
  double total = 0;
  for (const Candidate& c : candidates_) total += Weight(c);
  double point = rng.Uniform() * total;
  for (const Candidate& c : candidates_) {
    point -= Weight(c);
    if (point < 0) return c.id;
  }
  return candidates_.back().id;
}

double Sampler::Weight(const Candidate& c) const {
  return std::exp((static_cast<double>(c.logit) - best_) / options_.temperature);
}

// Collects the tokens that may be drawn, in an order that depends only on logits and ids. Sorting a vocabulary of 128k
// takes tens of milliseconds, so nothing is sorted without top-k and top-p.
void Sampler::Collect(std::span<const float> logits) {
  best_ = *std::max_element(logits.begin(), logits.end());
  // p >= min_p * p_best  <=>  logit >= best + temperature * log(min_p)
  const double floor = options_.min_p > 0 ? best_ + options_.temperature * std::log(options_.min_p) : -HUGE_VAL;
  const bool filters_later = options_.top_p < 1;  // min-p comes after top-p, whose mass counts every token
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (filters_later || logits[i] >= floor) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const auto at = [&](size_t n) { return candidates_.begin() + n; };
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    const auto keep = static_cast<size_t>(options_.top_k);
    std::nth_element(candidates_.begin(), at(keep - 1), candidates_.end(), likelier);
    candidates_.resize(keep);
    std::sort(candidates_.begin(), candidates_.end(), likelier);
  }
  if (options_.top_p < 1) {
    double total = 0;
    for (const Candidate& c : candidates_) total += Weight(c);
    // Sorts only as many tokens as reach the mass: the sorted part doubles until it suffices.
    double mass = 0;
    size_t kept = 0;
    for (size_t sorted = 0; kept < candidates_.size() && mass < options_.top_p * total;) {
      if (kept == sorted) {
        sorted = std::min(candidates_.size(), std::max<size_t>(64, 2 * sorted));
        std::partial_sort(at(kept), at(sorted), candidates_.end(), likelier);
      }
      mass += Weight(candidates_[kept++]);
    }
    candidates_.resize(std::max<size_t>(kept, 1));
    while (candidates_.size() > 1 && candidates_.back().logit < floor) candidates_.pop_back();
  }
}

}  // namespace duo
