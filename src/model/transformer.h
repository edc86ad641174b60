// Computes logits from tokens: the decoder-only transformer of Llama, Mistral and Qwen, written once against Backend.
#pragma once

#include <cstdint>
#include <functional>
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

/// The steps of a layer, in their order.
enum class LayerStep : uint8_t { kQkvProjection, kQkNorm, kRope, kAttention, kOutputProjection, kGateUp, kDown };

/// Ways to look into a layer and to change how it runs. Empty hooks are not called.
struct LayerHooks {
  /// Replaces attention: computes input->out from q, k and v. It may set input->out to other memory of that shape. The
  /// output projection reads what input->out then points to.
  std::function<Status(int layer, AttentionInput* input)> attend;
  /// Called after each step of the layer, when the activations hold the step's result.
  std::function<Status(int layer, LayerStep step)> after;
  /// Keeps what the products multiply: norm(x) in `normed` after kQkvProjection and kGateUp, silu(gate) * up in `gate`
  /// after kDown.
  bool keep_prepared = false;
  /// Ends the layer after kGateUp.
  bool skip_down = false;
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

  // The steps of Forward, for callers that look into the layers (identify/layer_walk.h) or change their attention
  // (identify/teacher_student.h). Call Embed, then RunLayer for every layer.

  /// x = embeddings. Also sets n_tokens, and the RoPE angles for positions pos, pos + 1, ...
  void Embed(std::span<const int32_t> ids, int64_t pos, Activations* act);
  /// Runs a layer on the tokens of the last Embed. Changes x, [n, hidden], which is the residual stream. It may be the
  /// activations' x or that of another stream of the same tokens. Without hooks.attend, attention runs over this layer
  /// of the state's cache, after its Begin. With it, only the state's activations are used. Returns the errors of the
  /// hooks too.
  Status RunLayer(int layer, TokenKind kind, float* x, const SequenceState& state, const LayerHooks& hooks = {});

  /// cos and sin for the positions of the last Embed, [n, head_dim / 2].
  const std::vector<float>& rope_cos() const { return cos_; }
  const std::vector<float>& rope_sin() const { return sin_; }

  /// Writes the final norm of rows [begin, begin + n) of the residual stream x to host memory, [n, hidden].
  Status Hidden(const float* x, int64_t begin, int64_t n, const Activations& act, float* host_out);

  /// Writes the logits of rows [begin, begin + n) of the last Forward to host memory, [n, vocab].
  Status Logits(const Activations& act, int64_t begin, int64_t n, float* host_out);

 private:
  /// Fills cos_ and sin_ for tokens at these positions.
  void FillRope(std::span<const int64_t> positions);
  void EmbedAt(std::span<const int32_t> ids, std::span<const int64_t> positions, Activations* act);
  /// Runs all layers, each between BeginLayer and EndLayer of the backend.
  Status RunLayers(TokenKind kind, const SequenceState& state, const LayerHooks& hooks);

  // The steps of a layer (LayerStep), on the first n_tokens rows of the residual stream x and of the activations.

  /// q, k, v = projections of norm(x), before the norms of q and k.
  Status QkvProjection(int layer, const float* x, const LayerHooks& hooks, Activations* act);
  /// Norms q and k, if the model has such norms.
  void QkNorm(int layer, Activations* act);
  /// Applies RoPE to q and k. Attention and the cache need them in this form.
  void Rope(Activations* act);
  /// input->out = attention over the cache and these tokens, or what hooks.attend computes.
  Status Attention(int layer, const SequenceState& state, const LayerHooks& hooks, AttentionInput* input);
  /// x += o(attended).
  Status OutputProjection(int layer, const float* attended, const Activations& act, float* x);
  /// gate and up = projections of norm(x).
  Status GateUp(int layer, const float* x, const LayerHooks& hooks, Activations* act);
  /// x += down(silu(gate) * up). May overwrite gate.
  Status Down(int layer, const LayerHooks& hooks, const Activations& act, float* x);

  /// A product's input: the norm of the first n rows of x.
  ProductInput Normed(const float* weight, const float* x, int64_t n, const Activations& act) const;
  AttentionInput InputOfAttention(TokenKind kind, const Activations& act) const;

  const Model::Weights& w_;
  ComputeType compute_;
  std::vector<int64_t> positions_;  // [n], current call
  std::vector<float> cos_, sin_;    // [n, head_dim / 2], current call
};

}  // namespace duo
