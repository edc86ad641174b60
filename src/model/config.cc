#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "checkpoint/hf_config.h"
#include "duo/model.h"
#include "model/quantize_matrix.h"
#include "model/rope.h"

namespace duo {

Result<ModelConfig> LoadModelConfig(const std::string& path) {
  const bool is_dir = IsDirectory(path);
  DUO_ASSIGN_OR_RETURN(const HfConfig hf, is_dir ? LoadHfConfig(path) : LoadHfConfigFile(path));
  ModelConfig config;
  const std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  config.name =
      is_dir ? (normal.has_filename() ? normal : normal.parent_path()).filename().string() : normal.stem().string();
  config.model_type = ModelTypeName(hf.model_type);
  config.n_layers = static_cast<int>(hf.n_layers);
  config.n_heads = static_cast<int>(hf.n_heads);
  config.n_kv_heads = static_cast<int>(hf.n_kv_heads);
  config.head_dim = static_cast<int>(hf.head_dim);
  config.hidden_size = hf.hidden_size;
  config.intermediate_size = hf.intermediate_size;
  config.vocab_size = hf.vocab_size;
  config.rms_norm_eps = static_cast<float>(hf.rms_norm_eps);
  config.qkv_bias = hf.qkv_bias;
  config.o_bias = hf.o_bias;
  config.mlp_bias = hf.mlp_bias;
  config.qk_norm = hf.qk_norm;
  config.tied_embeddings = hf.tie_word_embeddings;
  config.weights_type = hf.dtype;
  config.weights = hf.weights;
  config.trained_context = hf.trained_context;
  config.max_context = hf.max_context;
  config.max_context_reason = hf.max_context_reason;
  config.notes = hf.notes;
  config.inv_freq = RopeInvFreq(hf.rope, config.head_dim);
  config.rope_amplitude = hf.rope.attention_factor;
  config.eos_ids = hf.eos_ids;
  config.bos_id = hf.bos_id;
  return config;
}

int64_t ModelConfig::n_parameters() const {
  const int64_t q = q_width(), kv = kv_width();
  int64_t layer = hidden_size * (2 * q + 2 * kv) + 3 * hidden_size * intermediate_size + 2 * hidden_size;
  if (qkv_bias) layer += q + 2 * kv;
  if (o_bias) layer += hidden_size;
  if (mlp_bias) layer += 2 * intermediate_size + hidden_size;
  if (qk_norm) layer += 2 * head_dim;
  return n_layers * layer + vocab_size * hidden_size * (tied_embeddings ? 1 : 2) + hidden_size;
}

uint64_t ModelConfig::WeightsBytes() const {
  const auto matrix = [](int64_t n_out, int64_t n_in, WeightType type) -> uint64_t {
    switch (type) {
      case WeightType::kInt8: return n_out * n_in + n_out * sizeof(float);
      case WeightType::kInt4: return Int4Bytes(n_out, n_in);
      default: return n_out * n_in * 2;
    }
  };
  const int64_t q = q_width(), kv = kv_width();
  const uint64_t layer = matrix(q, hidden_size, weights) + 2 * matrix(kv, hidden_size, weights) +
                         matrix(hidden_size, q, weights) + 2 * matrix(intermediate_size, hidden_size, weights) +
                         matrix(hidden_size, intermediate_size, weights);
  const int64_t in_layers =
      n_layers * (2 * hidden_size * q + 2 * hidden_size * kv + 3 * hidden_size * intermediate_size);
  const int64_t heads = vocab_size * hidden_size * (tied_embeddings ? 1 : 2);
  const uint64_t vectors = n_parameters() - in_layers - heads;
  return n_layers * layer + matrix(vocab_size, hidden_size, HeadWeightType(weights)) * (tied_embeddings ? 1 : 2) +
         vectors * 2;
}

}  // namespace duo
