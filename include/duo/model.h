// A decoder-only transformer's weights and facts, opened from a Hugging Face directory. Immutable and shared.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "duo/backend.h"
#include "duo/dtype.h"
#include "duo/progress.h"
#include "duo/result.h"

namespace duo {

/// The facts of a model that people and the engine need. Validated when the model is opened.
struct ModelConfig {
  std::string name;        // last component of the directory
  std::string model_type;  // "llama", "mistral", "qwen2", "qwen3"
  int n_layers = 0;
  int n_heads = 0;     // q heads per layer
  int n_kv_heads = 0;  // KV heads per layer
  int head_dim = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t vocab_size = 0;
  float rms_norm_eps = 1e-5f;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // RMSNorm over head_dim of every q and k head, before RoPE
  bool tied_embeddings = false;
  DType weights_type = DType::kBF16;         // element type config.json gives for the matrices
  WeightType weights = WeightType::kNative;  // how the matrices are kept
  int64_t trained_context = 0;               // tokens; max_position_embeddings, or more where yarn stretches them
  int64_t max_context = 0;                   // tokens beyond it are refused; 0 = no limit of the model's own
  std::string max_context_reason;            // what sets max_context: "sliding_window 4096"
  std::vector<double> inv_freq;              // [head_dim / 2] RoPE angle per position, scaling included
  double rope_amplitude = 1.0;               // cos and sin are multiplied by it (yarn's attention factor)
  std::vector<int32_t> eos_ids;              // every id that ends generation
  int32_t bos_id = -1;                       // -1 = none
  /// Sentences for people about this checkpoint: what of its files was ignored, what limits the context.
  std::vector<std::string> notes;

  int group() const { return n_heads / n_kv_heads; }
  /// The context when `asked` tokens were asked for; with 0, that of the training as far as max_context allows.
  int64_t ContextFor(int64_t asked) const {
    if (asked > 0) return asked;
    return max_context > 0 && max_context < trained_context ? max_context : trained_context;
  }
  int64_t n_parameters() const;
  /// What such a model takes in memory, plain elements with 2 bytes each.
  uint64_t WeightsBytes() const;
};

struct ModelOptions {
  /// kInt8, kInt4: the matrices are quantised while the model is opened, into memory (docs/formats.md): layers as said,
  /// embedding and output matrix to int8.
  WeightType weights = WeightType::kNative;
  /// Of the quantising: matrices done.
  ProgressCallback progress;
};

/// Shape alone: the config of `dir`/config.json, or of a config.json given by its path. Errors as Model::Open.
Result<ModelConfig> LoadModelConfig(const std::string& path);

/// Owner of the weights. Immutable after opening; must outlive its sessions, and its backend must outlive it.
class Model {
 public:
  /// Maps the checkpoint; matrices that are not to be quantised are used where they lie in the files. kCancelled by
  /// the progress callback. kNotFound, kCorrupt (file, tensor, shape found
  /// and expected), kUnsupported, kResourceExhausted.
  static Result<Model> Open(const std::string& dir, Backend* backend, const ModelOptions& options = {});

  /// A model of the given shape with random weights in memory (bf16, or quantised), the same for the same seed: for
  /// measuring speed. n_layers > 0 makes only that many layers. kResourceExhausted.
  static Result<Model> Random(const ModelConfig& config, int n_layers, uint64_t seed, Backend* backend,
                              const ModelOptions& options = {});

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  const ModelConfig& config() const;
  Backend* backend() const;
  uint64_t weights_bytes() const;
  /// The part of weights_bytes() that is mapped from files: in no process's own memory, but it must stay cached.
  uint64_t mapped_bytes() const;

  /// kUnavailable, naming the file, when a file whose weights are used where they are mapped was written to or replaced
  /// since it was opened. After a write the weights are a mixture, and Session's calls fail too (they look every
  /// second); a replaced file stays as it was for those who have it open. A system call for each file; thread safe.
  Status CheckFiles() const;

  class Weights;
  const Weights& weights() const { return *weights_; }

 private:
  explicit Model(std::unique_ptr<Weights> weights);
  std::unique_ptr<Weights> weights_;
};

}  // namespace duo
