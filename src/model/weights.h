// The weights of a model: views of matrices where they lie, small vectors as floats.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/tensor_view.h"
#include "checkpoint/checkpoint.h"
#include "duo/model.h"

namespace duo {

struct LayerWeights {
  const float* attention_norm = nullptr;  // [hidden]
  TensorView q;                           // [n_heads * head_dim, hidden]
  TensorView k;                           // [n_kv_heads * head_dim, hidden]
  TensorView v;                           // [n_kv_heads * head_dim, hidden]
  TensorView o;                           // [hidden, n_heads * head_dim]
  const float* q_bias = nullptr;          // null where the model has none
  const float* k_bias = nullptr;
  const float* v_bias = nullptr;
  const float* o_bias = nullptr;
  const float* q_norm = nullptr;  // [head_dim], Qwen3
  const float* k_norm = nullptr;
  const float* mlp_norm = nullptr;  // [hidden]
  TensorView gate;                  // [intermediate, hidden]
  TensorView up;                    // [intermediate, hidden]
  TensorView down;                  // [hidden, intermediate]
  const float* gate_bias = nullptr;
  const float* up_bias = nullptr;
  const float* down_bias = nullptr;
};

/// Owns the mapped checkpoint or the random weights. Views and pointers live as long as it does.
class Model::Weights {
 public:
  static Result<std::unique_ptr<Weights>> FromCheckpoint(const std::string& dir, Backend* backend);
  static Result<std::unique_ptr<Weights>> FromRandom(const ModelConfig& config, uint64_t seed, Backend* backend);

  ModelConfig config;
  Backend* backend = nullptr;
  TensorView embedding;               // [vocab, hidden]
  TensorView lm_head;                 // [vocab, hidden]; the embedding itself when tied
  const float* final_norm = nullptr;  // [hidden]
  std::vector<LayerWeights> layers;
  uint64_t total_bytes = 0;
  uint64_t mapped_bytes = 0;

 private:
  friend class CheckpointLoader;
  friend class RandomFiller;
  /// A vector of n floats that lives as long as this.
  Result<float*> NewVector(int64_t n);

  std::optional<Checkpoint> checkpoint_;  // of a model opened from files
  Buffer random_;                         // of a random model: all matrices
  std::deque<Buffer> vectors_;            // norms and biases as floats
};

}  // namespace duo
