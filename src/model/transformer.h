// Tokens to logits: the decoder-only transformer of Llama, Mistral and Qwen, written once over Backend.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/duo_attention.h"
#include "duo/model.h"
#include "model/activations.h"
#include "model/weights.h"

namespace duo {

/// What one sequence carries through the layers.
struct SequenceState {
  SplitKvCache* cache = nullptr;
  DuoAttention* attention = nullptr;
  Activations* activations = nullptr;
};

class Transformer {
 public:
  /// Borrows the weights (and their backend).
  Transformer(const Model::Weights& weights, ComputeType compute) : w_(weights), compute_(compute) {}

  /// Runs the tokens behind cache->len() through all layers and advances the cache. Afterwards activations->x holds
  /// their residual stream after the last layer. ids: in the vocabulary, at most activations->max_tokens, not across a
  /// snapshot boundary. kResourceExhausted, kInternal.
  Status Forward(std::span<const int32_t> ids, TokenKind kind, const SequenceState& state);

  /// Final norm of rows [begin, begin + n) of the last Forward, [n, hidden], to host memory.
  void Hidden(const Activations& act, int64_t begin, int64_t n, float* host_out);

  /// Logits of rows [begin, begin + n) of the last Forward, [n, vocab], to host memory.
  Status Logits(const Activations& act, int64_t begin, int64_t n, float* host_out);

 private:
  Status AttentionBlock(const LayerWeights& layer, int index, TokenKind kind, int64_t n, const SequenceState& state);
  Status MlpBlock(const LayerWeights& layer, int64_t n, Activations* act);
  void FillRope(int64_t pos, int64_t n);

  const Model::Weights& w_;
  ComputeType compute_;
  std::vector<float> cos_, sin_;  // [n, head_dim / 2] of the current call
};

}  // namespace duo
