// The engine's forward pass over a growing context, with callbacks in every layer. Training-free scores and the inputs
// of the matrices are read in these callbacks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "attention/duo_attention.h"
#include "base/progress_counter.h"
#include "kv/split_kv_cache.h"
#include "model/activations.h"
#include "model/transformer.h"

namespace duo {

struct WalkOptions {
  ComputeType compute = ComputeType::kBF16;
  int64_t chunk = 512;        // max tokens run together; affects the values only by rounding
  uint64_t memory_limit = 0;  // bytes in addition to the weights; 0 = what the system has
};

/// The values of one layer that a callback gets, for n tokens from position pos on. Valid during the call.
struct LayerView {
  int layer = 0;
  int64_t pos = 0;
  int64_t n = 0;
  const float* q = nullptr;    // [n, n_heads, head_dim]
  const float* k = nullptr;    // [n, n_kv_heads, head_dim]
  const float* v = nullptr;    // [n, n_kv_heads, head_dim]
  const float* lse = nullptr;  // [n, n_heads] log of the sum of exp(score) over all keys; null before attention
};

/// The inputs of a layer's matrices, in their order in the layer. They belong to q, k and v; to o; to gate and up; and
/// to down.
enum class LinearInput : uint8_t { kAttention, kOutput, kMlp, kDown };
constexpr int kLinearInputs = 4;

/// One such input for n tokens. Valid during the call.
struct LinearInputView {
  int layer = 0;
  LinearInput input = LinearInput::kAttention;
  const float* x = nullptr;  // [n, dim]
  int64_t n = 0;
  int64_t dim = 0;
};

/// The callbacks of a walk. Empty ones are not called.
struct LayerObserver {
  std::function<Status(const LayerView&)> before_rope;         // q and k are normed but not rotated; lse is null
  std::function<Status(const LayerView&)> after_attention;     // q and k are rotated; the cache has this chunk's keys
  std::function<Status(const LinearInputView&)> linear_input;  // called after the product
};

/// Runs one sequence with full attention. Not thread safe. The model must outlive it.
class LayerWalk {
 public:
  /// kResourceExhausted, with the bytes needed and available.
  static Result<LayerWalk> Create(const Model& model, int64_t max_tokens, const WalkOptions& options);
  /// Memory that Create and Run take together, without the weights.
  static uint64_t Bytes(const Model& model, int64_t max_tokens, const WalkOptions& options);

  /// Appends tokens, at most `chunk` of them. Returns the errors of Transformer::Forward and of the callbacks.
  Status Run(std::span<const int32_t> ids, const LayerObserver& observer);
  /// Appends any number of tokens, chunk by chunk.
  Status RunInChunks(std::span<const int32_t> ids, const LayerObserver& observer, ProgressCounter* counter);
  /// Forgets the tokens from pos on.
  void Rewind(int64_t pos) { cache_.Rewind(pos); }

  int64_t len() const { return cache_.len(); }
  int64_t chunk() const { return act_.max_tokens; }
  /// Keys of a KV head, one row per position from 0 on, of type key_type().
  const uint8_t* keys(int layer, int kv_head) const { return cache_.head(layer, kv_head).rows(KvPart::kKeys); }
  KvType kv_type() const { return cache_.layout().type; }  // kF32 or kBF16
  DType key_type() const { return kv_type() == KvType::kF32 ? DType::kF32 : DType::kBF16; }

 private:
  LayerWalk(const Model& model, ComputeType compute, SplitKvCache cache, DuoAttention attention, Activations act)
      : weights_(&model.weights()),
        config_(&model.config()),
        transformer_(std::make_unique<Transformer>(model.weights(), compute)),
        cache_(std::move(cache)),
        attention_(std::move(attention)),
        act_(std::move(act)) {}

  /// Calls the callbacks that belong to this step of a layer.
  Status Observe(int layer, LayerStep step, const LayerObserver& observer) const;
  float* lse() const { return reinterpret_cast<float*>(lse_->data()); }

  const Model::Weights* weights_;
  const ModelConfig* config_;
  std::unique_ptr<Transformer> transformer_;  // on the heap: it holds a reference, so it cannot be moved
  SplitKvCache cache_;
  DuoAttention attention_;
  Activations act_;
  DeviceMemoryPtr lse_;  // [chunk, n_heads]
};

}  // namespace duo
