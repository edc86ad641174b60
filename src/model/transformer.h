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

/// kInvalidArgument, naming the first id that is not in 0..vocab_size-1.
Status CheckTokenIds(std::span<const int32_t> ids, int64_t vocab_size);

class Transformer {
 public:
  /// Borrows the weights (and their backend).
  Transformer(const Model::Weights& weights, ComputeType compute) : w_(weights), compute_(compute) {}

  /// Runs the tokens behind cache->len() through all layers and advances the cache. Afterwards activations->x holds
  /// their residual stream after the last layer. ids: in the vocabulary, at most activations->max_tokens, not across a
  /// snapshot boundary. kResourceExhausted, kInternal.
  Status Forward(std::span<const int32_t> ids, TokenKind kind, const SequenceState& state);

  /// One generated token of each of several sequences, reading every weight once: ids[t] behind caches[t]. Afterwards
  /// row t of act->x is that of token t. ids: in the vocabulary, at most act->max_tokens. caches: all different, with
  /// rows of one type. kResourceExhausted, kInternal; the caches then are what they were.
  Status ForwardTogether(std::span<const int32_t> ids, std::span<SplitKvCache* const> caches, DuoAttention* attention,
                         Activations* act);

  // The steps that Forward consists of, for callers that need what lies between them (identify/teacher_student.h). They
  // work on the first n rows of the activations, in this order for every layer.

  /// x = embeddings; RoPE angles for positions [pos, pos + n).
  void Embed(std::span<const int32_t> ids, int64_t pos, Activations* act);
  /// q, k, v = projections of norm(x), as they are before the norms of q and k.
  Status Project(int layer, int64_t n, Activations* act);
  /// Norms of q and k, where the model has them.
  void NormHeads(int layer, int64_t n, Activations* act);
  /// RoPE: q and k as attention and cache want them.
  void Rotate(int64_t n, Activations* act);
  /// attended = attention over `cache_layer` of the cache and these tokens. `lse`: as AttentionInput.
  Status Attend(int cache_layer, TokenKind kind, int64_t n, const SequenceState& state, float* lse = nullptr);
  /// x += o(attended).
  Status AddAttended(int layer, int64_t n, Activations* act);
  /// gate and up = projections of norm(x).
  Status Widen(int layer, int64_t n, Activations* act);
  /// x += down(silu(gate) * up), which may end up in gate.
  Status AddMlp(int layer, int64_t n, Activations* act);

  /// From now on what products multiply stands in the activations behind Project and Widen (normed) and AddMlp (gate).
  void KeepProductInputs() { keep_inputs_ = true; }

  /// cos and sin of the positions of the last Embed, [n, head_dim / 2].
  const std::vector<float>& rope_cos() const { return cos_; }
  const std::vector<float>& rope_sin() const { return sin_; }

  /// Final norm of rows [begin, begin + n) of the last Forward, [n, hidden], to host memory.
  Status Hidden(const Activations& act, int64_t begin, int64_t n, float* host_out);

  /// Logits of rows [begin, begin + n) of the last Forward, [n, vocab], to host memory.
  Status Logits(const Activations& act, int64_t begin, int64_t n, float* host_out);

 private:
  /// Rows of cos_ and sin_ for tokens at these positions.
  void FillRope(std::span<const int64_t> positions);
  void EmbedAt(std::span<const int32_t> ids, std::span<const int64_t> positions, Activations* act);
  /// `attend(input, layer)` is the attention of a layer.
  template <class AttendLayer>
  Status RunLayer(int layer, int64_t n, TokenKind kind, Activations* act, const AttendLayer& attend);
  /// All layers, each a part of the backend's step.
  template <class AttendLayer>
  Status RunLayers(int64_t n, TokenKind kind, Activations* act, const AttendLayer& attend);
  /// The first n rows of x behind a norm.
  ProductInput Normed(const float* weight, int64_t n, const Activations* act) const;
  AttentionInput InputOfAttention(int64_t n, TokenKind kind, const Activations& act) const;

  const Model::Weights& w_;
  ComputeType compute_;
  bool keep_inputs_ = false;
  std::vector<int64_t> positions_;  // [n] of the current call
  std::vector<float> cos_, sin_;    // [n, head_dim / 2] of the current call
};

}  // namespace duo
