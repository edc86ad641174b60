// The weights of a model: views of matrices where they lie, small vectors as floats.
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

/// Type of the layers' matrices where they lie, as MatrixView::dtype.
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
  const float* q_bias = nullptr;          // null where the model has none
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

/// Owns the mapped checkpoint or the random weights. Views and pointers live as long as it does.
class Model::Weights {
 public:
  static Result<std::unique_ptr<Weights>> FromCheckpoint(const std::string& dir, Backend* backend,
                                                         const ModelOptions& options);
  static Result<std::unique_ptr<Weights>> FromRandom(const ModelConfig& config, uint64_t seed, Backend* backend,
                                                     const ModelOptions& options);

  /// Whether the files that the weights are read from are what they were: Checkpoint::CheckFiles, where anything is
  /// used where it is mapped. Once they are not, they never are again. Thread safe.
  Status CheckFiles(Checkpoint::Replaced replaced) const;
  /// The same, of what was written to, for callers that ask at every step: looks at the files once a second.
  Status CheckFilesNowAndThen() const;

  ModelConfig config;
  Backend* backend = nullptr;
  MatrixView embedding;               // [vocab, hidden]
  MatrixView lm_head;                 // [vocab, hidden]; the embedding itself when tied
  const float* final_norm = nullptr;  // [hidden]
  std::vector<LayerWeights> layers;
  uint64_t total_bytes = 0;
  uint64_t mapped_bytes = 0;
  std::string fingerprint;  // of weights that the host cannot read any more (model/fingerprint.h)

 private:
  friend class CheckpointLoader;
  friend class RandomFiller;
  /// Moves everything to the backend's memory where that is not the host's. Progress as Quantize. kResourceExhausted.
  Status Place(const ModelOptions& options);
  /// A vector of n floats that lives as long as this.
  Result<float*> NewVector(int64_t n);
  /// Makes *matrix, whose shape is set, a quantised one that lives as long as this. kResourceExhausted, kCancelled.
  Status Quantize(WeightType type, const ModelOptions& options, const MatrixRows& row_of, MatrixView* matrix);

  std::optional<Checkpoint> checkpoint_;  // of a model opened from files
  mutable std::mutex change_mutex_;
  mutable Status change_;  // the first change that was found in them; guarded by change_mutex_
  mutable std::atomic<bool> has_change_ = false;
  mutable std::atomic<int64_t> next_check_ms_ = 0;
  Buffer random_;  // of a random model: all plain matrices
  std::deque<QuantizedMatrix> quantized_;
  Clock::time_point opened_ = Clock::now();
  std::deque<Buffer> vectors_;  // norms and biases as floats
  std::deque<DeviceMemoryPtr> placed_;
};

}  // namespace duo
