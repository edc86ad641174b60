#include "checkpoint/hf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/limits.h"
#include "checkpoint/rope_config.h"

namespace duo {
namespace {

/// Refuses a model because of what its config has, and says which models duo opens.
Status RefuseModel(const std::string& where, const std::string& found) {
  return Unsupported("{}: {}; duo opens dense llama, mistral, qwen2 and qwen3 models with full attention", where,
                     found);
}

Status CheckRange(int64_t value, int64_t least, int64_t most, const char* key, const std::string& where) {
  if (value >= least && value <= most) return OkStatus();
  return Corrupt("{}: {}: {}, expected {}..{}", where, key, value, least, most);
}

Result<int64_t> Count(const Json& config, const char* key, int64_t most, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const int64_t n, JsonInt(config, key, where));
  DUO_RETURN_IF_ERROR(CheckRange(n, 1, most, key, where));
  return n;
}

Result<int64_t> CountOr(const Json& config, const char* key, int64_t fallback, int64_t most, const std::string& where) {
  if (JsonOptional(config, key) == nullptr) return fallback;
  return Count(config, key, most, where);
}

Result<ModelType> ReadModelType(const Json& config, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const std::string name, JsonString(config, "model_type", where));
  for (const ModelType type : {ModelType::kLlama, ModelType::kMistral, ModelType::kQwen2, ModelType::kQwen3}) {
    if (name == ModelTypeName(type)) return type;
  }
  return RefuseModel(where, fmt::format("model_type \"{}\"", name));
}

// Refuses features that duo does not compute.
Status RefuseWhatDuoLacks(const Json& config, const std::string& where) {
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size"}) {
    const Json* value = JsonOptional(config, key);
    if (value != nullptr && value->is_number() && value->get<double>() > 0) {
      return RefuseModel(where, fmt::format("{} {} (a mixture of experts)", key, value->dump()));
    }
  }
  DUO_ASSIGN_OR_RETURN(const std::string activation, JsonStringOr(config, "hidden_act", "silu", where));
  if (activation != "silu" && activation != "swish") {
    return RefuseModel(where, fmt::format("hidden_act \"{}\"", activation));
  }
  return OkStatus();
}

// Accepts only what `duo quantize` writes: {"quant_method": "duo", "weights": "int8" or "int4", "version": 1}.
Result<WeightType> ReadWeightType(const Json& config, const std::string& where) {
  const Json* quantization = JsonOptional(config, "quantization_config");
  if (quantization == nullptr) return WeightType::kNative;
  const std::string of = where + ": quantization_config";
  DUO_ASSIGN_OR_RETURN(const std::string method, JsonStringOr(*quantization, "quant_method", "unknown", of));
  if (method != "duo") {
    return RefuseModel(where, fmt::format("quantization_config with quant_method \"{}\" (quantised weights); the "
                                          "checkpoint must hold BF16, F16 or F32, or what duo quantize made of it",
                                          method));
  }
  DUO_ASSIGN_OR_RETURN(const int64_t version, JsonInt(*quantization, "version", of));
  DUO_ASSIGN_OR_RETURN(const std::string weights, JsonString(*quantization, "weights", of));
  if (version != 1) return RefuseModel(where, fmt::format("quantization_config of version {}", version));
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
    if (weights == WeightTypeName(type)) return type;
  }
  return Corrupt("{}: weights: \"{}\", expected int8 or int4", of, weights);
}

Result<int64_t> ReadHeadDim(const Json& config, const HfConfig& hf, const std::string& where) {
  int64_t head_dim = 0;
  if (JsonOptional(config, "head_dim") != nullptr) {
    DUO_ASSIGN_OR_RETURN(head_dim, Count(config, "head_dim", limits::kMaxHeadDim, where));
  } else if (hf.model_type == ModelType::kQwen3) {
    head_dim = 128;  // the default of Qwen3Config, whatever hidden_size is
  } else if (hf.hidden_size % hf.n_heads == 0) {
    head_dim = hf.hidden_size / hf.n_heads;
    DUO_RETURN_IF_ERROR(
        CheckRange(head_dim, 1, limits::kMaxHeadDim, "head_dim (hidden_size / num_attention_heads)", where));
  } else {
    return Corrupt("{}: hidden_size {} is not a multiple of num_attention_heads {}, and there is no head_dim", where,
                   hf.hidden_size, hf.n_heads);
  }
  if (head_dim % 2 == 0) return head_dim;
  return Corrupt("{}: head_dim {}, expected an even number (RoPE rotates pairs)", where, head_dim);
}

// The defaults of transformers' configuration classes when the key is absent.
int64_t DefaultPositions(ModelType type) {
  switch (type) {
    case ModelType::kLlama: return 2048;
    case ModelType::kMistral: return 131072;
    case ModelType::kQwen2:
    case ModelType::kQwen3: return 32768;
  }
  return 2048;
}

// The defaults of transformers' configuration classes when the key is absent. A null means as many as query heads.
int64_t DefaultKvHeads(const Json& config, const HfConfig& hf) {
  if (config.contains("num_key_value_heads")) return hf.n_heads;
  switch (hf.model_type) {
    case ModelType::kLlama: return hf.n_heads;
    case ModelType::kMistral: return 8;
    case ModelType::kQwen2:
    case ModelType::kQwen3: return 32;
  }
  return hf.n_heads;
}

Status ReadShape(const Json& config, const std::string& where, HfConfig* hf) {
  DUO_ASSIGN_OR_RETURN(hf->vocab_size, Count(config, "vocab_size", limits::kMaxVocabSize, where));
  DUO_ASSIGN_OR_RETURN(hf->hidden_size, Count(config, "hidden_size", limits::kMaxHiddenSize, where));
  DUO_ASSIGN_OR_RETURN(hf->intermediate_size, Count(config, "intermediate_size", limits::kMaxIntermediateSize, where));
  DUO_ASSIGN_OR_RETURN(hf->n_layers, Count(config, "num_hidden_layers", limits::kMaxLayers, where));
  DUO_ASSIGN_OR_RETURN(hf->n_heads, Count(config, "num_attention_heads", limits::kMaxHeads, where));
  DUO_ASSIGN_OR_RETURN(hf->n_kv_heads,
                       CountOr(config, "num_key_value_heads", DefaultKvHeads(config, *hf), limits::kMaxHeads, where));
  if (hf->n_heads % hf->n_kv_heads != 0) {
    return Corrupt("{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", where, hf->n_heads,
                   hf->n_kv_heads);
  }
  DUO_ASSIGN_OR_RETURN(hf->head_dim, ReadHeadDim(config, *hf, where));
  DUO_ASSIGN_OR_RETURN(
      hf->max_position_embeddings,
      CountOr(config, "max_position_embeddings", DefaultPositions(hf->model_type), limits::kMaxPositions, where));
  DUO_ASSIGN_OR_RETURN(hf->rms_norm_eps, JsonNumberOr(config, "rms_norm_eps", 1e-6, where));
  if (!(hf->rms_norm_eps >= 0 && hf->rms_norm_eps < 1)) {
    return Corrupt("{}: rms_norm_eps: {}, expected a number from 0 to 1", where, Json(hf->rms_norm_eps).dump());
  }
  return OkStatus();
}

// The modelling code of each type decides which projections have biases, not the presence of tensors.
Status ReadFamilyTraits(const Json& config, const std::string& where, HfConfig* hf) {
  DUO_ASSIGN_OR_RETURN(hf->tie_word_embeddings, JsonBoolOr(config, "tie_word_embeddings", false, where));
  DUO_ASSIGN_OR_RETURN(const bool attention_bias, JsonBoolOr(config, "attention_bias", false, where));
  DUO_ASSIGN_OR_RETURN(const bool mlp_bias, JsonBoolOr(config, "mlp_bias", false, where));
  switch (hf->model_type) {
    case ModelType::kLlama:
      hf->qkv_bias = hf->o_bias = attention_bias;
      hf->mlp_bias = mlp_bias;
      break;
    case ModelType::kMistral: break;
    case ModelType::kQwen2: hf->qkv_bias = true; break;
    case ModelType::kQwen3:
      hf->qkv_bias = hf->o_bias = attention_bias;
      hf->qk_norm = true;
      break;
  }
  const Json* dtype = JsonOptional(config, "dtype");
  if (dtype == nullptr || !dtype->is_string()) dtype = JsonOptional(config, "torch_dtype");
  if (dtype != nullptr && *dtype == "float32") hf->dtype = DType::kF32;
  if (dtype != nullptr && *dtype == "float16") hf->dtype = DType::kF16;
  return OkStatus();
}

/// layer_types: whether the list exists, and whether it names layers with a window.
struct LayerTypes {
  bool listed = false;
  bool sliding = false;
};

Result<LayerTypes> ReadLayerTypes(const Json& config, const HfConfig& hf, const std::string& where) {
  const Json* listed = JsonOptional(config, "layer_types");
  if (listed == nullptr) return LayerTypes();
  const Json& types = *listed;
  if (!types.is_array() || std::ssize(types) < hf.n_layers) {
    return Corrupt("{}: layer_types: expected a list of num_hidden_layers ({}) names", where, hf.n_layers);
  }
  LayerTypes found{.listed = true};
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] == "sliding_attention") {
      found.sliding = true;
    } else if (types[i] != "full_attention") {
      const std::string name = types[i].is_string() ? types[i].dump(-1, ' ', true) : JsonTypeName(types[i]);
      return RefuseModel(where, fmt::format("layer_types[{}] is {}", i, name));
    }
  }
  return found;
}

/// sliding_window as the model's class reads it. When the key is absent, the default of the class; 0 = no window.
Result<int64_t> ReadWindow(const Json& config, const HfConfig& hf, const std::string& where) {
  constexpr int64_t kClassDefault = 4096;  // of MistralConfig, Qwen2Config and Qwen3Config in transformers
  const bool qwen = hf.model_type == ModelType::kQwen2 || hf.model_type == ModelType::kQwen3;
  if (qwen) {
    DUO_ASSIGN_OR_RETURN(const bool used, JsonBoolOr(config, "use_sliding_window", false, where));
    if (!used) return 0;
  }
  const bool has_default = qwen || hf.model_type == ModelType::kMistral;
  if (has_default && !config.contains("sliding_window")) return kClassDefault;
  DUO_ASSIGN_OR_RETURN(const int64_t window, JsonIntOr(config, "sliding_window", -1, where));
  if (window < 0) return 0;
  DUO_RETURN_IF_ERROR(CheckRange(window, 1, limits::kMaxPositions, "sliding_window", where));
  return window;
}

/// A window hides nothing of a text that it covers, so such a model runs up to that length.
Status LimitContextToWindow(const Json& config, const std::string& where, HfConfig* hf) {
  DUO_ASSIGN_OR_RETURN(const LayerTypes types, ReadLayerTypes(config, *hf, where));
  DUO_ASSIGN_OR_RETURN(const int64_t window, ReadWindow(config, *hf, where));
  DUO_ASSIGN_OR_RETURN(const int64_t first_window_layer, JsonIntOr(config, "max_window_layers", 28, where));
  bool slides = types.sliding;
  if (hf->model_type == ModelType::kMistral) slides = slides || window > 0;
  if (hf->model_type == ModelType::kQwen2 || hf->model_type == ModelType::kQwen3) {
    slides = types.listed ? types.sliding : window > 0 && first_window_layer < hf->n_layers;
  }
  if (!slides) return OkStatus();
  if (window == 0) return RefuseModel(where, "layer_types has sliding_attention, but there is no sliding_window");
  hf->max_context = window;
  hf->max_context_reason = fmt::format("sliding_window {}", window);
  if (window < hf->trained_context) {
    hf->notes.push_back(fmt::format(
        "{}: sliding_window: the context is limited to its {} tokens, of {}, because duo runs layers with a "
        "window only up to the window's length",
        where, window, hf->trained_context));
  }
  return OkStatus();
}

/// With yarn, max_position_embeddings may still be the original length. The context is then the length that yarn
/// stretches it to.
int64_t TrainedContext(const HfConfig& hf) {
  if (hf.rope.type != RopeType::kYarn) return hf.max_position_embeddings;
  const double stretched = hf.rope.factor * hf.rope.original_max_position_embeddings;
  const int64_t context = std::min<double>(stretched, limits::kMaxPositions);
  return std::max(hf.max_position_embeddings, context);
}

/// A token id of a config. When it is outside the vocabulary, returns nothing and adds a note. kCorrupt when it is not
/// an integer.
Result<std::optional<int32_t>> ReadTokenId(const Json& value, const char* key, const std::string& where, HfConfig* hf) {
  const std::string vocabulary = fmt::format("0..{}", hf->vocab_size - 1);
  if (!value.is_number_integer()) {
    return Corrupt("{}: {}: expected token ids in {}, found {}", where, key, vocabulary,
                   value.dump(-1, ' ', true).substr(0, 60));
  }
  if (value >= 0 && value < hf->vocab_size) return std::optional<int32_t>(value.get<int32_t>());
  hf->notes.push_back(fmt::format("{}: {}: {} is ignored, because it is not in the vocabulary {}", where, key,
                                  value.dump(), vocabulary));
  return std::optional<int32_t>();
}

Status AddEosIds(const Json& file, const std::string& where, HfConfig* hf) {
  const Json* value = JsonOptional(file, "eos_token_id");
  if (value == nullptr) return OkStatus();
  const Json list = value->is_array() ? *value : Json::array({*value});
  if (list.size() > limits::kMaxEosIds) {
    return Corrupt("{}: eos_token_id: more than {} ids", where, limits::kMaxEosIds);
  }
  for (const Json& item : list) {
    DUO_ASSIGN_OR_RETURN(const std::optional<int32_t> id, ReadTokenId(item, "eos_token_id", where, hf));
    if (!id || std::find(hf->eos_ids.begin(), hf->eos_ids.end(), *id) != hf->eos_ids.end()) continue;
    hf->eos_ids.push_back(*id);
  }
  return OkStatus();
}

Status ReadBosId(const Json& config, const std::string& where, HfConfig* hf) {
  const Json* value = JsonOptional(config, "bos_token_id");
  if (value == nullptr) return OkStatus();
  DUO_ASSIGN_OR_RETURN(const std::optional<int32_t> id, ReadTokenId(*value, "bos_token_id", where, hf));
  hf->bos_id = id.value_or(-1);
  return OkStatus();
}

Result<Json> ReadJsonFile(const std::string& path) {
  DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, limits::kMaxConfigBytes));
  return ParseJson(text, path);
}

/// Looks for a LoRA adapter in the folder. It is an error without a model, and a note beside one.
Status CheckForAdapter(const std::string& dir, std::vector<std::string>* notes) {
  const std::string path = dir + "/adapter_config.json";
  if (!FileExists(path)) return OkStatus();
  if (FileExists(dir + "/config.json")) {
    notes->push_back(path +
                     ": a LoRA adapter lies beside the model and is not used; merge it into the weights to use it");
    return OkStatus();
  }
  const Result<Json> adapter = ReadJsonFile(path);  // only for the name of its model; a read error does not matter
  const Result<std::string> base = JsonString(adapter.ok() ? *adapter : Json(), "base_model_name_or_path", path);
  return Unsupported("{}: this folder is a LoRA adapter without its model; merge it into {}", path,
                     base.ok() ? base->substr(0, 200) : "the model that it was made for");
}

}  // namespace

const char* ModelTypeName(ModelType type) {
  switch (type) {
    case ModelType::kLlama: return "llama";
    case ModelType::kMistral: return "mistral";
    case ModelType::kQwen2: return "qwen2";
    case ModelType::kQwen3: return "qwen3";
  }
  return "?";
}

Result<HfConfig> ParseHfConfig(const Json& config, const Json& generation_config, const std::string& where) {
  if (!config.is_object()) {
    return Corrupt("{}: expected a JSON object, found {}", where, JsonTypeName(config));
  }
  HfConfig hf;
  DUO_ASSIGN_OR_RETURN(hf.model_type, ReadModelType(config, where));
  DUO_RETURN_IF_ERROR(RefuseWhatDuoLacks(config, where));
  DUO_ASSIGN_OR_RETURN(hf.weights, ReadWeightType(config, where));
  DUO_RETURN_IF_ERROR(ReadShape(config, where, &hf));
  DUO_RETURN_IF_ERROR(ReadFamilyTraits(config, where, &hf));
  DUO_ASSIGN_OR_RETURN(hf.rope, ParseRopeConfig(config, hf.max_position_embeddings, where));
  hf.trained_context = TrainedContext(hf);
  DUO_RETURN_IF_ERROR(LimitContextToWindow(config, where, &hf));
  if (hf.rope.type == RopeType::kDynamic && (hf.max_context == 0 || hf.max_position_embeddings < hf.max_context)) {
    hf.max_context = hf.max_position_embeddings;
    hf.max_context_reason = "dynamic RoPE";
  }
  DUO_RETURN_IF_ERROR(AddEosIds(config, where, &hf));
  DUO_RETURN_IF_ERROR(AddEosIds(generation_config, where + " (generation_config.json)", &hf));
  DUO_RETURN_IF_ERROR(ReadBosId(config, where, &hf));
  return hf;
}

Result<HfConfig> LoadHfConfig(const std::string& dir) {
  if (!IsDirectory(dir)) return NotFound("{}: no such model directory", dir);
  const std::string generation_path = dir + "/generation_config.json";
  std::vector<std::string> notes;
  DUO_RETURN_IF_ERROR(CheckForAdapter(dir, &notes));
  DUO_ASSIGN_OR_RETURN(const Json config, ReadJsonFile(dir + "/config.json"));
  Json generation_config;
  if (FileExists(generation_path)) {
    DUO_ASSIGN_OR_RETURN(generation_config, ReadJsonFile(generation_path));
    if (!generation_config.is_object()) {
      return Corrupt("{}: expected a JSON object, found {}", generation_path, JsonTypeName(generation_config));
    }
  }
  DUO_ASSIGN_OR_RETURN(HfConfig hf, ParseHfConfig(config, generation_config, dir + "/config.json"));
  hf.notes.insert(hf.notes.begin(), notes.begin(), notes.end());
  return hf;
}

Result<HfConfig> LoadHfConfigFile(const std::string& path) {
  DUO_ASSIGN_OR_RETURN(const Json config, ReadJsonFile(path));
  return ParseHfConfig(config, Json(), path);
}

}  // namespace duo
