// Reads and validates config.json and generation_config.json of a Hugging Face model directory. The meaning of the keys
// is that of the configuration classes and modeling_rope_utils of the transformers library.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "duo/dtype.h"
#include "duo/result.h"

namespace duo {

enum class ModelType : uint8_t { kLlama, kMistral, kQwen2, kQwen3 };
const char* ModelTypeName(ModelType type);  // as in config.json: "llama", "mistral", "qwen2", "qwen3"

enum class RopeType : uint8_t { kDefault, kLinear, kLlama3, kYarn, kDynamic };
const char* RopeTypeName(RopeType type);  // as in config.json: "default", "linear", ...

/// The rotary embedding as the config describes it. The frequencies are computed where they are used. Only the fields
/// of `type` mean anything. All factors are finite and > 0.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                           // linear, llama3, yarn, dynamic
  int64_t original_max_position_embeddings = 0;  // llama3, yarn: trained length before scaling; always > 0 for these
  double low_freq_factor = 1.0;                  // llama3
  double high_freq_factor = 4.0;                 // llama3, > low_freq_factor
  double beta_fast = 32.0;                       // yarn, >= beta_slow
  double beta_slow = 1.0;                        // yarn
  /// yarn: the factor of cos and sin. It is the config's own attention_factor if given, else
  /// g(mscale)/g(mscale_all_dim) if both are given and not 0, else g(1). Here g(m) = 0.1*m*ln(factor) + 1
  /// (arXiv:2309.00071, section 3.4). It is 1 for every other type.
  double attention_factor = 1.0;
  double mscale = 0.0;          // yarn, as given; 0 = absent. Already in attention_factor.
  double mscale_all_dim = 0.0;  // yarn, as given; 0 = absent. Already in attention_factor.
  bool truncate = true;         // yarn: round the correction range outwards to whole dimensions
};

struct HfConfig {
  ModelType model_type = ModelType::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t n_layers = 0;
  int64_t n_heads = 0;     // q heads
  int64_t n_kv_heads = 0;  // divides n_heads
  int64_t head_dim = 0;    // even; n_heads * head_dim need not be hidden_size
  double rms_norm_eps = 1e-6;
  int64_t max_position_embeddings = 0;
  /// Tokens that the model was trained or scaled for: max_position_embeddings, or with yarn the original length times
  /// `factor` if that is more.
  int64_t trained_context = 0;
  /// Longer contexts must be refused, because the model computes something else there; 0 = no such limit. For
  /// RopeType::kDynamic the limit is max_position_embeddings: up to it, the type equals kDefault, and beyond it every
  /// key is rotated again. For layers with a window the limit is the window's length, up to which it hides nothing.
  int64_t max_context = 0;
  std::string max_context_reason;  // for messages, what sets max_context: "sliding_window 4096"
  bool tie_word_embeddings = false;
  bool qkv_bias = false;           // q_proj, k_proj, v_proj have a bias
  bool o_bias = false;             // o_proj has a bias
  bool mlp_bias = false;           // gate_proj, up_proj, down_proj have a bias
  bool qk_norm = false;            // RMS norm over head_dim of every q and k head before RoPE (qwen3)
  std::vector<int32_t> eos_ids;    // from both files, without repetitions, in [0, vocab_size); may be empty
  std::vector<std::string> notes;  // sentences for people: parts of the files that were ignored, limits of the context
  int32_t bos_id = -1;             // -1 = none
  DType dtype = DType::kBF16;      // type of the weights by `dtype` or `torch_dtype`; kBF16 when absent
  WeightType weights = WeightType::kNative;  // from the `quantization_config` that `duo quantize` writes
  RopeConfig rope;

  int64_t group() const { return n_heads / n_kv_heads; }  // q heads per kv head
};

/// `where` (the file's path) begins every sentence. `generation_config` is null when there is no such file.
///
/// Returns kCorrupt if a key is missing, of the wrong type, out of range (limits.h) or in conflict with another.
/// Returns kUnsupported for an architecture that duo does not run: mixture of experts, quantised weights, unknown RoPE,
/// activation or kind of layer. The sentence says what duo opens.
Result<HfConfig> ParseHfConfig(const Json& config, const Json& generation_config, const std::string& where);

/// Reads `dir`/config.json, and `dir`/generation_config.json if it exists. Errors as ParseHfConfig, kNotFound, kIo;
/// kUnsupported for the folder of a LoRA adapter.
Result<HfConfig> LoadHfConfig(const std::string& dir);

/// Reads a config.json, without a generation_config.json. Errors as LoadHfConfig.
Result<HfConfig> LoadHfConfigFile(const std::string& path);

}  // namespace duo
