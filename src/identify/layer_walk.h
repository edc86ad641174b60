// The engine's forward pass over a growing context, with a look at every layer: what training-free scores are read
// from, and what the matrices are multiplied with.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "attention/duo_attention.h"
#include "base/clock.h"
#include "duo/progress.h"
#include "kv/split_kv_cache.h"
#include "model/activations.h"
#include "model/transformer.h"

namespace duo {

struct WalkOptions {
  ComputeType compute = ComputeType::kBF16;
  int64_t chunk = 512;        // most tokens run together; what is seen hardly depends on it (rounding)
  uint64_t memory_limit = 0;  // bytes beside the weights; 0 = what the system has
};

/// What a look sees of one layer: n tokens from position pos on. Valid during the call.
struct LayerView {
  int layer = 0;
  int64_t pos = 0;
  int64_t n = 0;
  const float* q = nullptr;    // [n, n_heads, head_dim]
  const float* k = nullptr;    // [n, n_kv_heads, head_dim]
  const float* v = nullptr;    // [n, n_kv_heads, head_dim]
  const float* lse = nullptr;  // [n, n_heads] log of the sum of exp(score) over all keys, behind attention
};

/// What is multiplied with matrices, as they come in a layer: q, k and v; o; gate and up; down.
enum class LinearInput : uint8_t { kAttention, kOutput, kMlp, kDown };
constexpr int kLinearInputs = 4;

/// n tokens of one of them. Valid during the call.
struct LinearInputView {
  int layer = 0;
  LinearInput input = LinearInput::kAttention;
  const float* x = nullptr;  // [n, dim]
  int64_t n = 0;
  int64_t dim = 0;
};

struct LayerLooks {
  std::function<Status(const LayerView&)> before_rope;         // q and k after their norms, before RoPE; no lse yet
  std::function<Status(const LayerView&)> after_attention;     // rotated; this chunk's keys are in the cache
  std::function<Status(const LinearInputView&)> linear_input;  // behind the products
};

/// Tokens done out of a total, for the caller's bar.
class WalkCounter {
 public:
  WalkCounter(const ProgressCallback& progress, const char* stage, int64_t total)
      : progress_(progress), stage_(stage), total_(total) {}
  /// kCancelled when the callback says so.
  Status Add(int64_t n);

 private:
  const ProgressCallback& progress_;
  const char* stage_;
  int64_t done_ = 0, total_;
  Clock::time_point begin_ = Clock::now();
};

/// Full attention over one sequence. Not thread safe; the model must outlive it.
class LayerWalk {
 public:
  /// kResourceExhausted, with the bytes needed and available.
  static Result<LayerWalk> Create(const Model& model, int64_t max_tokens, const WalkOptions& options);
  /// Memory that Create takes and a run adds, weights not counted.
  static uint64_t Bytes(const Model& model, int64_t max_tokens, const WalkOptions& options);

  /// Adds tokens, at most `chunk` of them. Errors as Transformer::Forward and those of the looks.
  Status Run(std::span<const int32_t> ids, const LayerLooks& looks);
  /// Adds any number of tokens, chunk by chunk.
  Status RunInChunks(std::span<const int32_t> ids, const LayerLooks& looks, WalkCounter* counter);
  /// Forgets the tokens from pos on.
  void Rewind(int64_t pos) { cache_.Rewind(pos); }

  int64_t len() const { return cache_.len(); }
  int64_t chunk() const { return act_.max_tokens; }
  /// Keys of a KV head, rows of positions from 0 on, of type key_type().
  const uint8_t* keys(int layer, int kv_head) { return cache_.full(layer).k(cache_.place(layer, kv_head).index); }
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

  const Model::Weights* weights_;
  const ModelConfig* config_;
  std::unique_ptr<Transformer> transformer_;  // holds a reference: stays where it is
  SplitKvCache cache_;
  DuoAttention attention_;
  Activations act_;
  DeviceMemoryPtr lse_;  // [chunk, n_heads]
};

}  // namespace duo
