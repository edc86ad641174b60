// Finds the heads that need the whole context without training, with scores from forward passes. A higher score means
// more of a retrieval head. All scores are in [0, 1], so they can be written as gates.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "duo/model.h"
#include "duo/progress.h"
#include "duo/result.h"
#include "identify/layer_walk.h"

namespace duo {

/// KVzip (arXiv:2505.23416). The model reads `context` and is then made to repeat it in chunks of repeat_chunk tokens.
/// Before each chunk it reads `prompt` ("Repeat the previous context:"). The score of a KV head is the largest softmax
/// attention that any key of the context receives from any token of a repeated chunk. (Maximum over queries, q heads of
/// the group and keys.) The first `sink` keys do not count, because a streaming head has them too and every head
/// attends to them. Works on one block of queries and keys at a time, so there is never an n x n matrix.
/// Returns [n_layers, n_kv_heads].
struct RepeatInput {
  std::span<const int32_t> context;  // more than `sink` tokens
  std::span<const int32_t> prompt;   // separates a chunk from the end of the context, which local heads would see
  int64_t sink = 64;
  int64_t repeat_chunk = 2048;
};
Result<std::vector<double>> RepeatScores(const Model& model, const RepeatInput& input, const WalkOptions& options,
                                         const ProgressCallback& progress = {});

/// kvpress, pull request 63. Takes the mean of q and of k over all tokens, before RoPE but after the norms of q and k.
/// Repeats both means at positions 0..499 and computes a = softmax(q_last K^T / sqrt(d)). The score is mean(cumsum(a)),
/// averaged over the group and over texts. It is 1 if a head attends only to far keys, and 0.002 if it attends only to
/// the last key. Returns [n_layers, n_kv_heads].
Result<std::vector<double>> ProfileScores(const Model& model, const std::vector<std::vector<int32_t>>& texts,
                                          const WalkOptions& options, const ProgressCallback& progress = {});

/// The share of attention outside the sink and recent tokens, averaged over queries, the group and texts. This is the
/// attention that streaming would lose. It is a baseline: it does not consider whether the lost tokens matter. Returns
/// [n_layers, n_kv_heads].
Result<std::vector<double>> OutsideMassScores(const Model& model, const std::vector<std::vector<int32_t>>& texts,
                                              int64_t sink, int64_t recent, const WalkOptions& options,
                                              const ProgressCallback& progress = {});

}  // namespace duo
