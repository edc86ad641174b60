// A decoder-only transformer, opened from a Hugging Face directory: its configuration and its weights.
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

/// A model's configuration. Validated when the model is opened.
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
  DType weights_type = DType::kBF16;         // element type that config.json gives for the matrices
  WeightType weights = WeightType::kNative;  // how the matrices are stored
  int64_t trained_context = 0;               // tokens: max_position_embeddings, or more where yarn stretches it
  int64_t max_context = 0;                   // longer contexts are refused; 0 = the model sets no limit
  std::string max_context_reason;            // what sets max_context: "sliding_window 4096"
  std::vector<double> inv_freq;              // [head_dim / 2] RoPE angle per position, scaling included
  double rope_amplitude = 1.0;               // cos and sin are multiplied by this (yarn's attention factor)
  std::vector<int32_t> eos_ids;              // every id that ends generation
  int32_t bos_id = -1;                       // -1 = none
  /// Sentences for people about this checkpoint: parts of its files that were ignored, and limits of the context.
  std::vector<std::string> notes;

  int group() const { return n_heads / n_kv_heads; }
  /// Elements of one token's q, and of its attention output: all q heads together.
  int64_t q_width() const { return int64_t{n_heads} * head_dim; }
  /// Elements of one token's K, and of its V: all KV heads together.
  int64_t kv_width() const { return int64_t{n_kv_heads} * head_dim; }
  /// Returns `asked` when it is positive. For 0, returns the trained context, capped by max_context.
  int64_t ContextFor(int64_t asked) const {
    if (asked > 0) return asked;
    return max_context > 0 && max_context < trained_context ? max_context : trained_context;
  }
  int64_t n_parameters() const;
  /// Bytes that such a model takes in memory, with 2 bytes for each plain element.
  uint64_t WeightsBytes() const;
};

struct ModelOptions {
  /// kInt8 and kInt4 quantise the matrices into memory while the model is opened (docs/formats.md). The layers'
  /// matrices get this type. The embedding and the output matrix get int8 in both cases.
  WeightType weights = WeightType::kNative;
  /// Progress of the quantisation, in matrices.
  ProgressCallback progress;
};

/// Reads the configuration without the weights. `path` is a model directory or a config.json. Errors as Model::Open.
Result<ModelConfig> LoadModelConfig(const std::string& path);

/// Owns the weights. Immutable after opening, so many sessions may share it. The model must outlive its sessions, and
/// its backend must outlive the model.
class Model {
 public:
  /// Maps the checkpoint's files. Matrices that stay in their native type are used directly from the mapping.
  ///
  /// Returns kCancelled if the progress callback returned false. Returns kCorrupt with file, tensor, and the shapes
  /// found and expected. Other errors: kNotFound, kUnsupported, kResourceExhausted.
  static Result<Model> Open(const std::string& dir, Backend* backend, const ModelOptions& options = {});

  /// Makes a model of the given shape with random weights in memory (bf16, or quantised), for measuring speed. The same
  /// seed gives the same weights. n_layers > 0 makes only that many layers. kResourceExhausted.
  static Result<Model> Random(const ModelConfig& config, int n_layers, uint64_t seed, Backend* backend,
                              const ModelOptions& options = {});

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  const ModelConfig& config() const;
  Backend* backend() const;
  uint64_t weights_bytes() const;
  /// The part of weights_bytes() that is mapped from files. It is page cache, not memory of the process, but decoding
  /// is fast only while it stays cached.
  uint64_t mapped_bytes() const;

  /// Checks the files whose weights are used from the mapping. Returns kUnavailable, with the file's name, if one was
  /// written to or replaced after it was opened. A written file is a mixture of old and new weights. Session's calls
  /// then fail too, because they check once a second. A replaced file keeps its old content for those who have it open.
  /// Makes one system call per file. Thread safe.
  Status CheckFiles() const;

  class Weights;
  const Weights& weights() const { return *weights_; }

 private:
  explicit Model(std::unique_ptr<Weights> weights);
  std::unique_ptr<Weights> weights_;
};

/// Identifies the model that something was measured on or saved from: a hash of 16 hexadecimal digits. It covers the
/// shapes, norms, biases, RoPE frequencies and eight pages of 4 KiB of every matrix. The pages are spread evenly from
/// the first byte of the matrix, as it is stored in memory, to its last.
///
/// Two checkpoints of one shape have different fingerprints. A fine-tune, another RoPE scaling and quantised weights
/// change a model's fingerprint too. A change of a few rows between the pages is not noticed.
std::string ModelFingerprint(const Model& model);

}  // namespace duo
