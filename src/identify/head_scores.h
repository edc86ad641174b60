// Which heads need the whole context, without training: scores from forward passes. Higher = more of a retrieval head;
// all lie in [0, 1], so that they are written as gates.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "duo/model.h"
#include "duo/progress.h"
#include "duo/result.h"
#include "identify/layer_walk.h"

namespace duo {

/// KVzip (arXiv:2505.23416): the model reads `context` and is then made to repeat it, piece by piece of repeat_chunk
/// tokens, each behind `prompt` ("Repeat the previous context:"). The score of a KV head is the largest softmax
/// attention that any key of the context receives from any token of a repeated piece (maximum over queries, q heads of
/// the group, keys). The first `sink` keys do not count: a streaming head has them too, and every head looks there. No
/// n x n matrix: a block of queries and keys at a time. Returns [n_layers, n_kv_heads].
struct RepeatInput {
  std::span<const int32_t> context;  // more than `sink` tokens
  std::span<const int32_t> prompt;   // parts a piece from the context's end, which heads that look back a little see
  int64_t sink = 64;
  int64_t repeat_chunk = 2048;
};
Result<std::vector<double>> RepeatScores(const Model& model, const RepeatInput& input, const WalkOptions& options,
                                         const ProgressCallback& progress = {});

/// kvpress, pull request 63: per layer the mean of q and k over tokens before RoPE (but after the norms of q and k);
/// both repeated at positions 0..499, a = softmax(q_last K^T / sqrt(d)); the score is mean(cumsum(a)), averaged over
/// the group and over texts: 1 when a head looks at far keys only, 0.002 when at the last one only.
Result<std::vector<double>> ProfileScores(const Model& model, const std::vector<std::vector<int32_t>>& texts,
                                          const WalkOptions& options, const ProgressCallback& progress = {});

/// The share of attention that falls outside sink and recent tokens, mean over queries, the group and texts: what
/// streaming takes away. A baseline: it does not ask whether what is there matters.
Result<std::vector<double>> OutsideMassScores(const Model& model, const std::vector<std::vector<int32_t>>& texts,
                                              int64_t sink, int64_t recent, const WalkOptions& options,
                                              const ProgressCallback& progress = {});

}  // namespace duo
