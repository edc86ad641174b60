// Head patterns: which KV heads need the whole context. Reads and writes the published DuoAttention format and chooses
// the retrieval heads.
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
  int64_t recent = 256;       // last tokens that streaming heads keep, the current one included
  /// Maximum of sink and of recent. Files with more are refused.
  static constexpr int64_t kMaxWindow = int64_t{1} << 30;
  std::string config_json;  // the whole config.json as read, so that unknown keys survive; "{}" for new patterns

  double gate(int layer, int kv_head) const {
    return gates[static_cast<size_t>(layer) * static_cast<size_t>(n_kv_heads) + static_cast<size_t>(kv_head)];
  }
};

/// Which heads are retrieval heads. The engine runs with this choice; it does not need the gates.
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

/// Reads `dir`/full_attention_heads.tsv and `dir`/config.json. The sizes are sink_size and recent_size of the config.
/// If deploy_sink_size or deploy_recent_size is a number, it overrides the respective size.
///
/// Returns kNotFound if a file is missing. Returns kCorrupt if rows differ in length, a gate is not a finite number, or
/// a size is negative or absurd. The sentence names the file and the place in it: line and column of a gate.
Result<HeadPattern> LoadHeadPattern(const std::string& dir);

/// Creates `dir` and writes the pattern there in the published format. Loading it again gives the same gates bit for
/// bit. kIo.
Status SaveHeadPattern(const HeadPattern& pattern, const std::string& dir);

/// Returns kInvalidArgument, with both shapes in the sentence, if the pattern is not for n_layers x n_kv_heads.
Status CheckPatternShape(const HeadPattern& pattern, int n_layers, int n_kv_heads);

/// Makes every head a retrieval head: full attention.
HeadChoice AllRetrieval(int n_layers, int n_kv_heads);

/// DuoAttention's quantile rule. Clips the N gates to [0,1] and keeps the N - ceil(sparsity*(N-1)) highest (all if
/// sparsity <= 0, none if >= 1). Ties go to the lower layer, then to the lower head. Returns kInvalidArgument if
/// sparsity is not in [0,1] or a gate is NaN.
Result<HeadChoice> ChooseBySparsity(const HeadPattern& pattern, double sparsity);

/// Keeps the heads with gate >= threshold. A NaN gate is never kept.
HeadChoice ChooseByThreshold(const HeadPattern& pattern, double threshold);

/// Layer-exclusive choice: all heads of a layer are retrieval heads, or all are streaming heads. With L layers, keeps
/// the L - ceil(sparsity*(L-1)) with the largest sums of clipped gates (all if sparsity <= 0, none if >= 1). This
/// choice minimises the sum over heads of |gate - assigned|. Ties go to the lower layer. The idea is from
/// ZigzagAttention (arXiv:2508.12407); the criterion is duo's own. Errors as ChooseBySparsity.
Result<HeadChoice> ChooseLayersBySparsity(const HeadPattern& pattern, double sparsity);

/// Draws as many retrieval heads as ChooseBySparsity would keep, at random by `seed`: a baseline for comparisons.
Result<HeadChoice> ChooseAtRandom(int n_layers, int n_kv_heads, double sparsity, uint64_t seed);

/// The choice as a pattern with gates of 0 and 1, to be written in the published format. Sink, recent and config are
/// those of `from`.
HeadPattern ToPattern(const HeadChoice& choice, const HeadPattern& from);

}  // namespace duo
