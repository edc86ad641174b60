#include "model/weights.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <set>
#include <span>
#include <utility>

#include "backend/backend.h"
#include "base/bf16.h"
#include "base/error.h"
#include "base/shape_text.h"

namespace duo {
namespace {

constexpr int64_t kFileCheckMs = 1000;

}  // namespace

Result<float*> Model::Weights::NewVector(int64_t n) {
  DUO_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(n * sizeof(float)));
  vectors_.push_back(std::move(buffer));
  return vectors_.back().as<float>();
}

Status Model::Weights::Quantize(WeightType type, const ModelOptions& options, const MatrixRows& row_of,
                                MatrixView* matrix) {
  DUO_ASSIGN_OR_RETURN(QuantizedMatrix quantized,
                       QuantizeMatrix(matrix->n_out, matrix->n_in, row_of, type, backend->n_threads()));
  quantized_.push_back(std::move(quantized));
  *matrix = quantized_.back().view();
  const auto done = std::ssize(quantized_);
  const int64_t total = int64_t{7} * config.n_layers + (config.tied_embeddings ? 1 : 2);
  const bool go_on =
      !options.progress ||
      options.progress(
          {.stage = "quantize", .done = done, .total = total, .unit = "matrices", .seconds = SecondsSince(opened_)});
  return go_on ? OkStatus() : Cancelled();
}

Status Model::Weights::CheckFiles(Checkpoint::Replaced replaced) const {
  if (!checkpoint_ || mapped_bytes == 0) return OkStatus();
  const std::lock_guard lock(change_mutex_);
  // The first change is kept: restoring the file later does not correct results that were computed from it.
  if (change_.ok()) change_ = checkpoint_->CheckFiles(Checkpoint::Replaced::kIsFine);
  has_change_ = !change_.ok();
  return change_.ok() ? checkpoint_->CheckFiles(replaced) : change_;
}

Status Model::Weights::CheckFilesNowAndThen() const {
  const auto now = static_cast<int64_t>(SecondsSince(opened_) * 1e3);
  if (now < next_check_ms_ && !has_change_) return OkStatus();
  next_check_ms_ = now + kFileCheckMs;
  return CheckFiles(Checkpoint::Replaced::kIsFine);
}

/// Takes tensors by their Hugging Face names, and checks each against the shape in the config.
class CheckpointLoader {
 public:
  CheckpointLoader(Model::Weights* weights, const ModelOptions& options)
      : weights_(weights), file_(*weights->checkpoint_), options_(options) {}

  Status Load() {
    const ModelConfig& c = weights_->config;
    head_type_ = HeadWeightType(c.weights);
    DUO_RETURN_IF_ERROR(EmbeddingAndHead());
    DUO_RETURN_IF_ERROR(Vector("model.norm.weight", c.hidden_size, &weights_->final_norm));
    weights_->layers.resize(c.n_layers);
    for (int i = 0; i < c.n_layers; ++i) {
      DUO_RETURN_IF_ERROR(Layer(fmt::format("model.layers.{}.", i), &weights_->layers[i]));
    }
    return CheckNothingIsLeftOut();
  }

 private:
  // Follows transformers 5: the two matrices of a tied model are one if the checkpoint has only one of them or both are
  // equal. A head that differs was trained, whatever config.json says.
  Status EmbeddingAndHead() {
    ModelConfig& c = weights_->config;
    const std::string embedding = "model.embed_tokens.weight", head = "lm_head.weight";
    if (c.tied_embeddings && file_.Has(embedding) && file_.Has(head)) {
      DUO_ASSIGN_OR_RETURN(const bool equal, StoredAlike(embedding, head));
      c.tied_embeddings = equal;
      if (!equal) {
        c.notes.push_back(file_.dir() + ": " + head + ": differs from the embedding, although config.json ties them " +
                          "(tie_word_embeddings); the stored head is used");
      }
    }
    const std::string& first = c.tied_embeddings && !file_.Has(embedding) ? head : embedding;
    DUO_RETURN_IF_ERROR(Matrix(first, c.vocab_size, c.hidden_size, &weights_->embedding, head_type_));
    if (!c.tied_embeddings) return Matrix(head, c.vocab_size, c.hidden_size, &weights_->lm_head, head_type_);
    weights_->lm_head = weights_->embedding;
    return OkStatus();
  }

  // Whether both matrices, and their scales if they have any, have the same bytes, type and shape.
  Result<bool> StoredAlike(const std::string& name, const std::string& other) {
    for (const std::string suffix : {"", kScaleSuffix}) {
      if (!file_.Has(name + suffix) && !file_.Has(other + suffix)) continue;
      DUO_ASSIGN_OR_RETURN(const TensorView a, Take(name + suffix));
      DUO_ASSIGN_OR_RETURN(const TensorView b, Take(other + suffix));
      if (a.dtype != b.dtype || a.rank != b.rank || a.shape != b.shape) return false;
      if (std::memcmp(a.data, b.data, a.bytes()) != 0) return false;
    }
    return true;
  }

  Result<TensorView> Take(const std::string& name) {
    taken_.insert(name);
    return file_.Get(name);
  }

  Status Layer(const std::string& prefix, LayerWeights* layer) {
    const ModelConfig& c = weights_->config;
    const int64_t q = c.q_width(), kv = c.kv_width();
    const std::string attn = prefix + "self_attn.";
    const std::string mlp = prefix + "mlp.";
    DUO_RETURN_IF_ERROR(Vector(prefix + "input_layernorm.weight", c.hidden_size, &layer->attention_norm));
    DUO_RETURN_IF_ERROR(Vector(prefix + "post_attention_layernorm.weight", c.hidden_size, &layer->mlp_norm));
    DUO_RETURN_IF_ERROR(Matrix(attn + "q_proj.weight", q, c.hidden_size, &layer->q));
    DUO_RETURN_IF_ERROR(Matrix(attn + "k_proj.weight", kv, c.hidden_size, &layer->k));
    DUO_RETURN_IF_ERROR(Matrix(attn + "v_proj.weight", kv, c.hidden_size, &layer->v));
    DUO_RETURN_IF_ERROR(Matrix(attn + "o_proj.weight", c.hidden_size, q, &layer->o));
    DUO_RETURN_IF_ERROR(Matrix(mlp + "gate_proj.weight", c.intermediate_size, c.hidden_size, &layer->gate));
    DUO_RETURN_IF_ERROR(Matrix(mlp + "up_proj.weight", c.intermediate_size, c.hidden_size, &layer->up));
    DUO_RETURN_IF_ERROR(Matrix(mlp + "down_proj.weight", c.hidden_size, c.intermediate_size, &layer->down));
    if (c.qkv_bias) {
      DUO_RETURN_IF_ERROR(Vector(attn + "q_proj.bias", q, &layer->q_bias));
      DUO_RETURN_IF_ERROR(Vector(attn + "k_proj.bias", kv, &layer->k_bias));
      DUO_RETURN_IF_ERROR(Vector(attn + "v_proj.bias", kv, &layer->v_bias));
    }
    if (c.o_bias) DUO_RETURN_IF_ERROR(Vector(attn + "o_proj.bias", c.hidden_size, &layer->o_bias));
    if (c.mlp_bias) {
      DUO_RETURN_IF_ERROR(Vector(mlp + "gate_proj.bias", c.intermediate_size, &layer->gate_bias));
      DUO_RETURN_IF_ERROR(Vector(mlp + "up_proj.bias", c.intermediate_size, &layer->up_bias));
      DUO_RETURN_IF_ERROR(Vector(mlp + "down_proj.bias", c.hidden_size, &layer->down_bias));
    }
    if (c.qk_norm) {
      DUO_RETURN_IF_ERROR(Vector(attn + "q_norm.weight", c.head_dim, &layer->q_norm));
      DUO_RETURN_IF_ERROR(Vector(attn + "k_norm.weight", c.head_dim, &layer->k_norm));
    }
    return OkStatus();
  }

  // Without this check, a bias, a norm or an adapter that the config does not announce would silently be ignored.
  Status CheckNothingIsLeftOut() const {
    for (const std::string& name : file_.names()) {
      const bool of_model = name.starts_with("model.") || name.starts_with("lm_head.");
      // Old versions of transformers saved such tables with the weights. They follow from config.json.
      const bool table = name.find("rotary_emb.") != std::string::npos || name.ends_with(".position_ids");
      if (of_model && !table && !taken_.contains(name)) return Unannounced(name);
    }
    return OkStatus();
  }

  Status Unannounced(const std::string& name) const {
    const ModelConfig& c = weights_->config;
    std::string reason = "a " + c.model_type + " model has no such tensor";
    int64_t layer = -1;
    if (name.starts_with("model.layers.")) layer = std::strtoll(name.c_str() + 13, nullptr, 10);
    if (name.find(".lora_") != std::string::npos) reason = "a LoRA adapter must be merged into the weights";
    if (name.find(".self_attn.") != std::string::npos && name.ends_with("_proj.bias")) reason = "attention_bias";
    if (name.find(".mlp.") != std::string::npos && name.ends_with("_proj.bias")) reason = "mlp_bias";
    if (name.ends_with(".q_norm.weight") || name.ends_with(".k_norm.weight")) reason = "model_type qwen3";
    if (layer >= c.n_layers) reason = fmt::format("num_hidden_layers {}", c.n_layers);
    return Corrupt(
        "{}: {}: the file has this tensor, but config.json does not announce it ({}); without it the results "
        "would be wrong",
        file_.dir(), name, reason);
  }

  Status CheckShape(const std::string& name, const TensorView& view, int64_t rows, int64_t columns) const {
    const std::span<const int64_t> found(view.shape.data(), view.rank);
    const std::array<int64_t, 2> matrix{rows, columns};
    const std::span<const int64_t> expected(matrix.data(), columns == 0 ? 1 : 2);
    if (std::equal(found.begin(), found.end(), expected.begin(), expected.end())) return OkStatus();
    return Corrupt("{}: {}: shape {}, expected {}", file_.dir(), name, ShapeText(found), ShapeText(expected));
  }

  Status Matrix(const std::string& name, int64_t rows, int64_t columns, MatrixView* view) {
    return Matrix(name, rows, columns, view, weights_->config.weights);
  }

  Status Matrix(const std::string& name, int64_t rows, int64_t columns, MatrixView* view, WeightType type) {
    if (type != WeightType::kNative && options_.weights == WeightType::kNative) {
      return StoredMatrix(name, rows, columns, view, type);
    }
    DUO_ASSIGN_OR_RETURN(const TensorView tensor, Take(name));
    DUO_RETURN_IF_ERROR(CheckShape(name, tensor, rows, columns));
    DUO_RETURN_IF_ERROR(CheckType(name, tensor, DTypeBytes(tensor.dtype) > 1, "F32, BF16 or F16"));
    *view = {.data = tensor.data, .dtype = tensor.dtype, .n_out = rows, .n_in = columns};
    if (type != WeightType::kNative) {
      const Status status = weights_->Quantize(type, options_, RowsOf(*view), view);
      if (!status.ok()) return status.Annotate(file_.dir() + ": " + name);
      file_.Forget(tensor);
    } else {
      weights_->mapped_bytes += view->bytes();
    }
    weights_->total_bytes += view->bytes();
    return OkStatus();
  }

  Status CheckType(const std::string& name, const TensorView& tensor, bool right, const char* expected) const {
    if (right) return OkStatus();
    return Corrupt("{}: {}: type {}, expected {}", file_.dir(), name, DTypeName(tensor.dtype), expected);
  }

  // A quantised matrix, as written by duo quantize.
  Status StoredMatrix(const std::string& name, int64_t rows, int64_t columns, MatrixView* view, WeightType type) {
    DUO_ASSIGN_OR_RETURN(const TensorView tensor, Take(name));
    *view = {.data = tensor.data, .dtype = tensor.dtype, .n_out = rows, .n_in = columns};
    if (type == WeightType::kInt8) {
      DUO_RETURN_IF_ERROR(CheckType(name, tensor, tensor.dtype == DType::kI8, "i8 (config.json says int8)"));
      DUO_RETURN_IF_ERROR(CheckShape(name, tensor, rows, columns));
      DUO_ASSIGN_OR_RETURN(const TensorView scale, Take(name + kScaleSuffix));
      DUO_RETURN_IF_ERROR(CheckShape(name + kScaleSuffix, scale, rows, 0));
      DUO_RETURN_IF_ERROR(CheckType(name + kScaleSuffix, scale, scale.dtype == DType::kF32, "f32"));
      view->scale = static_cast<const float*>(scale.data);
    } else {
      DUO_RETURN_IF_ERROR(CheckType(name, tensor, tensor.dtype == DType::kU8, "u8 (config.json says int4)"));
      DUO_RETURN_IF_ERROR(CheckShape(name, tensor, DivideUp(rows, kInt4Rows), Int4BlockBytes(columns)));
    }
    weights_->total_bytes += view->bytes();
    weights_->mapped_bytes += view->bytes();
    return OkStatus();
  }

  Status Vector(const std::string& name, int64_t n, const float** vector) {
    DUO_ASSIGN_OR_RETURN(const TensorView view, Take(name));
    DUO_RETURN_IF_ERROR(CheckShape(name, view, n, 0));
    DUO_RETURN_IF_ERROR(CheckType(name, view, DTypeBytes(view.dtype) > 1, "F32, BF16 or F16"));
    DUO_ASSIGN_OR_RETURN(float* values, weights_->NewVector(n));
    for (int64_t i = 0; i < n; ++i) {
      switch (view.dtype) {
        case DType::kF32: values[i] = static_cast<const float*>(view.data)[i]; break;
        case DType::kBF16: values[i] = ToFloat(static_cast<const bf16*>(view.data)[i]); break;
        case DType::kF16: values[i] = ToFloat(static_cast<const f16*>(view.data)[i]); break;
        case DType::kI8:
        case DType::kU8: break;
      }
    }
    *vector = values;
    weights_->total_bytes += n * sizeof(float);
    return OkStatus();
  }

  Model::Weights* weights_;
  const Checkpoint& file_;
  const ModelOptions& options_;
  WeightType head_type_ = WeightType::kNative;
  std::set<std::string, std::less<>> taken_;  // names of the tensors that the model uses
};

Result<std::unique_ptr<Model::Weights>> Model::Weights::FromCheckpoint(const std::string& dir, Backend* backend,
                                                                       const ModelOptions& options) {
  auto weights = std::make_unique<Weights>();
  weights->backend = backend;
  DUO_ASSIGN_OR_RETURN(weights->config, LoadModelConfig(dir));
  DUO_ASSIGN_OR_RETURN(weights->checkpoint_, Checkpoint::Open(dir));
  if (options.weights != WeightType::kNative) {
    if (weights->config.weights != WeightType::kNative) {
      return InvalidArgument("{} weights were requested, but the weights of {} are already {}; open it as it is",
                             WeightTypeName(options.weights), dir, WeightTypeName(weights->config.weights))
          .About("weights");
    }
    weights->config.weights = options.weights;
  }
  DUO_RETURN_IF_ERROR(CheckpointLoader(weights.get(), options).Load());
  DUO_RETURN_IF_ERROR(weights->Place(options));
  return weights;
}

// ---- Model

Model::Model(std::unique_ptr<Weights> weights) : weights_(std::move(weights)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Result<Model> Model::Open(const std::string& dir, Backend* backend, const ModelOptions& options) {
  DUO_ASSIGN_OR_RETURN(auto weights, Weights::FromCheckpoint(dir, backend, options));
  return Model(std::move(weights));
}

Result<Model> Model::Random(const ModelConfig& config, int n_layers, uint64_t seed, Backend* backend,
                            const ModelOptions& options) {
  ModelConfig shape = config;
  if (n_layers < 0 || n_layers > config.n_layers) {
    return BadOption("n_layers", n_layers, fmt::format("1..{}, as many as {} has", config.n_layers, config.name));
  }
  if (n_layers > 0) shape.n_layers = n_layers;
  DUO_ASSIGN_OR_RETURN(auto weights, Weights::FromRandom(shape, seed, backend, options));
  return Model(std::move(weights));
}

const ModelConfig& Model::config() const { return weights_->config; }
Status Model::CheckFiles() const { return weights_->CheckFiles(Checkpoint::Replaced::kIsAnError); }
Backend* Model::backend() const { return weights_->backend; }
uint64_t Model::weights_bytes() const { return weights_->total_bytes; }
uint64_t Model::mapped_bytes() const { return weights_->mapped_bytes; }

}  // namespace duo
