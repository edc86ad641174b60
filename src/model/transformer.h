// Computes logits from tokens: the decoder-only transformer of Llama, Mistral and Qwen, written once against Backend.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/duo_attention.h"
#include "duo/model.h"
#include "model/activations.h"
#include "model/weights.h"

namespace duo {

/// The state that one sequence needs in a forward pass. Borrows all three.
struct SequenceState {
  SplitKvCache* cache = nullptr;
  DuoAttention* attention = nullptr;
  Activations* activations = nullptr;
};

/// kInvalidArgument if an id is not in 0..vocab_size-1. The message names the first such id.
Status CheckTokenIds(std::span<const int32_t> ids, int64_t vocab_size);

class Transformer {
 public:
  /// Borrows the weights and their backend.
  Transformer(const Model::Weights& weights, ComputeType compute) : w_(weights), compute_(compute) {}

  /// Appends the tokens `ids` to the sequence: runs them through all layers and advances the cache. Afterwards
  /// activations->x holds their residual stream after the last layer. The ids must be in the vocabulary, at most
  /// activations->max_tokens of them, and must not cross a snapshot boundary. kResourceExhausted, kInternal.
  Status Forward(std::span<const int32_t> ids, TokenKind kind, const SequenceState& state);

  /// Appends one generated token to each of several sequences, ids[t] to caches[t], and reads every weight only once.
  /// Afterwards row t of act->x belongs to token t. The ids must be in the vocabulary, at most act->max_tokens of them.
  /// The caches must be different and have rows of one type. kResourceExhausted, kInternal; the caches are then
  /// unchanged.
  Status ForwardTogether(std::span<const int32_t> ids, std::span<SplitKvCache* const> caches, DuoAttention* attention,
                         Activations* act);

  // The steps of Forward, for callers that need values between them (identify/teacher_student.h). Each works on the
  // first n rows of the activations. Call Embed first, then the others in this order for every layer.

  /// x = embeddings. Also sets the RoPE angles for positions [pos, pos + n).
  void Embed(std::span<const int32_t> ids, int64_t pos, Activations* act);
  /// q, k, v = projections of norm(x), before the norms of q and k.
  Status Project(int layer, int64_t n, Activations* act);
  /// Norms q and k, if the model has such norms.
  void NormHeads(int layer, int64_t n, Activations* act);
  /// Applies RoPE to q and k. Attention and the cache need them in this form.
  void Rotate(int64_t n, Activations* act);
  /// attended = attention over layer `cache_layer` of the cache and these tokens. `lse`: see AttentionInput.
  Status Attend(int cache_layer, TokenKind kind, int64_t n, const SequenceState& state, float* lse = nullptr);
  /// x += o(attended).
  Status AddAttended(int layer, int64_t n, Activations* act);
  /// gate and up = projections of norm(x).
  Status Widen(int layer, int64_t n, Activations* act);
  /// x += down(silu(gate) * up). May overwrite gate.
  Status AddMlp(int layer, int64_t n, Activations* act);

  /// Keeps each product's input in the activations so that calibration can read it: `normed` after Project and Widen,
  /// `gate` after AddMlp.
  void KeepProductInputs() { keep_inputs_ = true; }

  /// cos and sin for the positions of the last Embed, [n, head_dim / 2].
  const std::vector<float>& rope_cos() const { return cos_; }
  const std::vector<float>& rope_sin() const { return sin_; }

  /// Writes the final norm of rows [begin, begin + n) of the last Forward to host memory, [n, hidden].
  Status Hidden(const Activations& act, int64_t begin, int64_t n, float* host_out);

  /// Writes the logits of rows [begin, begin + n) of the last Forward to host memory, [n, vocab].
  Status Logits(const Activations& act, int64_t begin, int64_t n, float* host_out);

 private:
  /// Fills cos_ and sin_ for tokens at these positions.
  void FillRope(std::span<const int64_t> positions);
  void EmbedAt(std::span<const int32_t> ids, std::span<const int64_t> positions, Activations* act);
  /// `attend(input, layer)` is the attention of a layer.
  template <class AttendLayer>
  Status RunLayer(int layer, int64_t n, TokenKind kind, Activations* act, const AttendLayer& attend);
  /// Runs all layers. Each layer is a part of the backend's step (Backend::BeginPart).
  template <class AttendLayer>
  Status RunLayers(int64_t n, TokenKind kind, Activations* act, const AttendLayer& attend);
  /// A product's input: the norm of the first n rows of x.
  ProductInput Normed(const float* weight, int64_t n, const Activations* act) const;
  AttentionInput InputOfAttention(int64_t n, TokenKind kind, const Activations& act) const;

  const Model::Weights& w_;
  ComputeType compute_;
  bool keep_inputs_ = false;
  std::vector<int64_t> positions_;  // [n], current call
  std::vector<float> cos_, sin_;    // [n, head_dim / 2], current call
};

}  // namespace duo
