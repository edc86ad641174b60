// The weights of a model: views of matrices in place (for example in a mapped file), and small vectors as floats.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/buffer.h"
#include "base/clock.h"
#include "base/matrix_view.h"
#include "checkpoint/checkpoint.h"
#include "duo/model.h"
#include "model/quantize_matrix.h"

namespace duo {

/// MatrixView::dtype of the layers' matrices.
inline DType MatrixType(const ModelConfig& config) {
  return config.weights == WeightType::kInt8   ? DType::kI8
         : config.weights == WeightType::kInt4 ? DType::kU8
                                               : config.weights_type;
}

struct LayerWeights {
  const float* attention_norm = nullptr;  // [hidden]
  MatrixView q;                           // [n_heads * head_dim, hidden]
  MatrixView k;                           // [n_kv_heads * head_dim, hidden]
  MatrixView v;                           // [n_kv_heads * head_dim, hidden]
  MatrixView o;                           // [hidden, n_heads * head_dim]
  const float* q_bias = nullptr;          // null if the model has none
  const float* k_bias = nullptr;
  const float* v_bias = nullptr;
  const float* o_bias = nullptr;
  const float* q_norm = nullptr;  // [head_dim], Qwen3
  const float* k_norm = nullptr;
  const float* mlp_norm = nullptr;  // [hidden]
  MatrixView gate;                  // [intermediate, hidden]
  MatrixView up;                    // [intermediate, hidden]
  MatrixView down;                  // [hidden, intermediate]
  const float* gate_bias = nullptr;
  const float* up_bias = nullptr;
  const float* down_bias = nullptr;
};

/// Owns the mapped checkpoint or the random weights. Views and pointers are valid as long as this lives.
class Model::Weights {
 public:
  static Result<std::unique_ptr<Weights>> FromCheckpoint(const std::string& dir, Backend* backend,
                                                         const ModelOptions& options);
  static Result<std::unique_ptr<Weights>> FromRandom(const ModelConfig& config, uint64_t seed, Backend* backend,
                                                     const ModelOptions& options);

  /// If weights are used in mapped files, checks that the files have not changed (Checkpoint::CheckFiles). After a
  /// write to a file, every later call fails too. Thread safe.
  Status CheckFiles(Checkpoint::Replaced replaced) const;
  /// Checks only for writes to the files, and only once a second. Cheap enough to call at every step.
  Status CheckFilesNowAndThen() const;

  ModelConfig config;
  Backend* backend = nullptr;
  MatrixView embedding;               // [vocab, hidden]
  MatrixView lm_head;                 // [vocab, hidden]; the embedding itself when tied
  const float* final_norm = nullptr;  // [hidden]
  std::vector<LayerWeights> layers;
  uint64_t total_bytes = 0;
  uint64_t mapped_bytes = 0;
  std::string fingerprint;  // set if the host can no longer read the weights (model/fingerprint.h)

 private:
  friend class CheckpointLoader;
  friend class RandomFiller;
  /// Moves everything to the backend's memory, unless that is host memory. Reports progress as Quantize does.
  /// kResourceExhausted, kCancelled.
  Status Place(const ModelOptions& options);
  /// Returns n floats that live as long as this.
  Result<float*> NewVector(int64_t n);
  /// Quantises the rows and points *matrix to the result, which lives as long as this. The caller sets the shape of
  /// *matrix. kResourceExhausted, kCancelled.
  Status Quantize(WeightType type, const ModelOptions& options, const MatrixRows& row_of, MatrixView* matrix);

  std::optional<Checkpoint> checkpoint_;  // empty for random weights
  mutable std::mutex change_mutex_;
  mutable Status change_;  // the first write found in the checkpoint's files; guarded by change_mutex_
  mutable std::atomic<bool> has_change_ = false;
  mutable std::atomic<int64_t> next_check_ms_ = 0;
  Buffer random_;  // all plain matrices of a random model
  std::deque<QuantizedMatrix> quantized_;
  Clock::time_point opened_ = Clock::now();
  std::deque<Buffer> vectors_;  // norms and biases as floats
  std::deque<DeviceMemoryPtr> placed_;
};

}  // namespace duo
