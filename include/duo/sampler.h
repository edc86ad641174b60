// Choosing the next token.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "duo/result.h"

namespace duo {

/// Applied in this order: bias and penalties, temperature, top-k, top-p, min-p; then one token is drawn.
struct SamplerOptions {
  double temperature = 0;          // 0 = greedy; otherwise logits are divided by it; >= 0
  int64_t top_k = 0;               // keep the k most likely; 0 = all
  double top_p = 1;                // keep the smallest set whose probability reaches top_p; (0, 1]
  double min_p = 0;                // keep tokens at least min_p times as likely as the best; [0, 1]
  double repetition_penalty = 1;   // > 1 makes tokens that occurred less likely (arXiv:1909.05858 section 4.1); > 0
  int64_t repetition_window = 64;  // how many last tokens count as occurred; 0 = all
  double frequency_penalty = 0;    // taken from a logit for each time this sampler chose the token; -2..2
  double presence_penalty = 0;     // taken once from the logits of tokens it chose; -2..2
  std::vector<std::pair<int32_t, float>> bias = {};  // added to the logits of these tokens; -100..100 each
  uint64_t seed = 0;
};

/// kInvalidArgument names the option and its range.
Status CheckSamplerOptions(const SamplerOptions& options);

/// Deterministic for the same options and the same calls. Ties go to the lower id.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);

  /// logits [vocab], finite; history: the tokens so far, oldest first.
  int32_t Sample(std::span<const float> logits, std::span<const int32_t> history);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  int32_t Choose(std::span<const float> logits);
  bool ChangesLogits() const;
  /// logits with bias and penalties, valid until the next call.
  std::span<const float> Changed(std::span<const float> logits, std::span<const int32_t> history);
  /// Applies the repetition penalty to penalised_.
  void Penalise(std::span<const int32_t> history);
  /// Fills candidates_ with the tokens that may be drawn.
  void Collect(std::span<const float> logits);
  /// exp((logit - best) / temperature).
  double Weight(const Candidate& c) const;

  SamplerOptions options_;
  uint64_t draws_ = 0;
  std::map<int32_t, int64_t> chosen_;  // how often, where penalties ask for it
  double best_ = 0;                    // largest logit of the current call
  std::vector<Candidate> candidates_;
  std::vector<float> penalised_;
};

}  // namespace duo
