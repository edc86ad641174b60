// config.json and generation_config.json of a Hugging Face model directory as validated facts.
// Meaning of the keys: the configuration classes and modeling_rope_utils of the transformers library.
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

/// Rotary embedding as the config describes it; the frequencies are computed where they are used. Only the fields of
/// `type` mean anything. All factors are finite and > 0.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                           // linear, llama3, yarn, dynamic
  int64_t original_max_position_embeddings = 0;  // llama3, yarn: trained length before scaling; always > 0 for these
  double low_freq_factor = 1.0;                  // llama3
  double high_freq_factor = 4.0;                 // llama3, > low_freq_factor
  double beta_fast = 32.0;                       // yarn, >= beta_slow
  double beta_slow = 1.0;                        // yarn
  /// yarn: what cos and sin are multiplied by. Resolved here: the config's own attention_factor, else
  /// g(mscale)/g(mscale_all_dim) when both are given and not 0, else g(1), with g(m) = 0.1*m*ln(factor) + 1
  /// (arXiv:2309.00071, section 3.4). 1 for every other type.
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
  /// Tokens the model was trained or scaled for: max_position_embeddings, or original length x factor with yarn where
  /// that is more.
  int64_t trained_context = 0;
  /// Contexts longer than this must be refused, because the model's own definition changes there; 0 = no such limit.
  /// max_position_embeddings for RopeType::kDynamic (equal to default up to there, re-rotates every key beyond); the
  /// window where layers have one (up to there it hides nothing).
  int64_t max_context = 0;
  std::string max_context_reason;  // what sets max_context, for messages: "sliding_window 4096"
  bool tie_word_embeddings = false;
  bool qkv_bias = false;           // q_proj, k_proj, v_proj have a bias
  bool o_bias = false;             // o_proj has a bias
  bool mlp_bias = false;           // gate_proj, up_proj, down_proj have a bias
  bool qk_norm = false;            // RMS norm over head_dim of every q and k head before RoPE (qwen3)
  std::vector<int32_t> eos_ids;    // of both files, without repetitions, in [0, vocab_size); may be empty
  std::vector<std::string> notes;  // sentences for people: what of the files was ignored or limits the context
  int32_t bos_id = -1;             // -1 = none
  DType dtype =
      DType::kBF16;  // `torch_dtype` / `dtype`: what the weights are said to be stored in; kBF16 when not said
  WeightType weights = WeightType::kNative;  // what `quantization_config` of `duo quantize` says
  RopeConfig rope;

  int64_t group() const { return n_heads / n_kv_heads; }  // q heads per kv head
};

/// `where` (the file's path) begins every sentence. `generation_config` may be null (no such file).
/// kCorrupt: a key is missing, of the wrong type, out of range (limits.h) or at odds with another.
/// kUnsupported: an architecture duo does not run (mixture of experts, quantised weights, unknown RoPE, activation or
/// kind of layer); the sentence says what duo opens.
Result<HfConfig> ParseHfConfig(const Json& config, const Json& generation_config, const std::string& where);

/// `dir`/config.json, and `dir`/generation_config.json where there is one. Adds kNotFound, kIo; kUnsupported for the
/// folder of a LoRA adapter.
Result<HfConfig> LoadHfConfig(const std::string& dir);

/// One config.json by its path, without a generation_config.json.
Result<HfConfig> LoadHfConfigFile(const std::string& path);

}  // namespace duo
