// Head patterns: which KV heads need the whole context. The published DuoAttention format and the choice of heads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "duo/result.h"

namespace duo {

/// The learned (or scored) gates of a model, and the window of its streaming heads.
struct HeadPattern {
  int n_layers = 0;
  int n_kv_heads = 0;         // per layer
  std::vector<double> gates;  // [n_layers, n_kv_heads], 1 = retrieval, 0 = streaming; finite
  int64_t sink = 64;          // tokens at the start that streaming heads keep
  int64_t recent = 256;       // last tokens they keep, the current one included
  std::string config_json;    // the whole config.json as read, so that unknown keys survive; "{}" when made here

  double gate(int layer, int kv_head) const {
    return gates[static_cast<size_t>(layer) * static_cast<size_t>(n_kv_heads) + static_cast<size_t>(kv_head)];
  }
};

/// Which heads are retrieval heads. A view of the choice, not of the gates: what the engine runs with.
struct HeadChoice {
  int n_layers = 0;
  int n_kv_heads = 0;
  std::vector<uint8_t> retrieval;  // [n_layers, n_kv_heads], 1 = retrieval, 0 = streaming

  bool is_retrieval(int layer, int kv_head) const {
    return retrieval[static_cast<size_t>(layer) * static_cast<size_t>(n_kv_heads) + static_cast<size_t>(kv_head)] != 0;
  }
  int n_retrieval() const;  // in the whole model
  int n_retrieval_in(int layer) const;
  double sparsity() const;  // share of streaming heads
};

/// Reads `dir`/full_attention_heads.tsv and `dir`/config.json (sink_size, recent_size; deploy_sink_size and
/// deploy_recent_size win over them when they are numbers). kNotFound; kCorrupt names file, line and column for rows of
/// unequal length, NaN, infinities, anything that is not a number, and for negative or absurd sizes.
Result<HeadPattern> LoadHeadPattern(const std::string& dir);

/// Writes the published format; creates `dir`. Loading it again gives the same gates bit for bit. kIo.
Status SaveHeadPattern(const HeadPattern& pattern, const std::string& dir);

/// kInvalidArgument, with both shapes in the sentence, when the pattern is not for n_layers x n_kv_heads.
Status CheckPatternShape(const HeadPattern& pattern, int n_layers, int n_kv_heads);

/// Every head retrieval: full attention.
HeadChoice AllRetrieval(int n_layers, int n_kv_heads);

/// DuoAttention's quantile rule: of N gates clipped to [0,1] keep the N - ceil(sparsity*(N-1)) highest (all if
/// sparsity <= 0, none if >= 1). Ties: higher gate, then lower layer, then lower head. kInvalidArgument: sparsity is
/// not in [0,1], or a gate is NaN.
Result<HeadChoice> ChooseBySparsity(const HeadPattern& pattern, double sparsity);

/// Keeps gate >= threshold, so no gate that is NaN.
HeadChoice ChooseByThreshold(const HeadPattern& pattern, double threshold);

/// Layer-exclusive: each layer wholly retrieval or wholly streaming. Of L layers keep the L - ceil(sparsity*(L-1)) (all
/// if sparsity <= 0, none if >= 1) with the largest sums of clipped gates, which is the choice that changes the gates
/// least: sum over heads of |gate - assigned|. Ties: the lower layer. (ZigzagAttention, arXiv:2508.12407, has the idea;
/// the criterion is ours.) Errors as ChooseBySparsity.
Result<HeadChoice> ChooseLayersBySparsity(const HeadPattern& pattern, double sparsity);

/// As many retrieval heads as ChooseBySparsity would keep, drawn at random by `seed`: the counter-example.
Result<HeadChoice> ChooseAtRandom(int n_layers, int n_kv_heads, double sparsity, uint64_t seed);

/// A choice as gates of 0 and 1, for writing it in the published format with `from`'s sink, recent and config.
HeadPattern ToPattern(const HeadChoice& choice, const HeadPattern& from);

}  // namespace duo
