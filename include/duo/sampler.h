// Chooses the next token from logits.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "duo/result.h"

namespace duo {

/// The sampler applies these in this order: bias and penalties, temperature, top-k, top-p, min-p. Then it draws one
/// token.
struct SamplerOptions {
  double temperature = 0;          // >= 0; logits are divided by it; 0 = greedy
  int64_t top_k = 0;               // keep the k most likely; 0 = all
  double top_p = 1;                // keep the smallest set whose probability reaches top_p; (0, 1]
  double min_p = 0;                // keep tokens at least min_p times as likely as the best; [0, 1]
  double repetition_penalty = 1;   // > 1 makes tokens that occurred less likely (arXiv:1909.05858 section 4.1); > 0
  int64_t repetition_window = 64;  // last tokens that count as occurred; 0 = all
  double frequency_penalty = 0;    // subtracted from a token's logit each time this sampler chose it; -2..2
  double presence_penalty = 0;     // subtracted once from the logits of tokens this sampler chose; -2..2
  std::vector<std::pair<int32_t, float>> bias = {};  // added to the logits of these tokens; -100..100 each
  uint64_t seed = 0;
};

/// Returns kInvalidArgument, with the option and its range, if an option is out of range.
Status CheckSamplerOptions(const SamplerOptions& options);

/// Deterministic: the same options and the same calls give the same tokens. Ties go to the lower id.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);

  /// logits: [vocab], all finite. history: the tokens so far, oldest first.
  int32_t Sample(std::span<const float> logits, std::span<const int32_t> history);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  int32_t Choose(std::span<const float> logits);
  bool ChangesLogits() const;
  /// The logits with bias and penalties applied, valid until the next call.
  std::span<const float> Changed(std::span<const float> logits, std::span<const int32_t> history);
  /// Applies the repetition penalty to penalised_.
  void Penalise(std::span<const int32_t> history);
  /// Fills candidates_ with the tokens that may be drawn.
  void Collect(std::span<const float> logits);
  /// exp((logit - best) / temperature).
  double Weight(const Candidate& c) const;

  SamplerOptions options_;
  uint64_t draws_ = 0;
  std::map<int32_t, int64_t> chosen_;  // times each token was chosen; only counted for penalties
  double best_ = 0;                    // largest logit of the current call
  std::vector<Candidate> candidates_;
  std::vector<float> penalised_;
};

}  // namespace duo
