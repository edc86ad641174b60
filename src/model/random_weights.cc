// Makes random weights of a given shape, so that speed can be measured without a checkpoint.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/backend.h"
#include "base/align.h"
#include "base/bf16.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "model/weights.h"

namespace duo {

/// Allocates all matrices in one block and fills it with copies of a table of normal random values. Drawing 8 billion
/// values would take minutes, and speed does not depend on the values being independent.
class RandomFiller {
 public:
  RandomFiller(Model::Weights* weights, uint64_t seed, const ModelOptions& options)
      : weights_(weights), rng_(seed), options_(options) {}

  Status Fill() {
    const ModelConfig& c = weights_->config;
    weights_->layers.resize(c.n_layers);
    const WeightType head = HeadWeightType(options_.weights);
    Plan(&weights_->embedding, c.vocab_size, c.hidden_size, head);
    if (!c.tied_embeddings) Plan(&weights_->lm_head, c.vocab_size, c.hidden_size, head);
    DUO_RETURN_IF_ERROR(Vector(c.hidden_size, 1.0f, &weights_->final_norm));
    for (LayerWeights& layer : weights_->layers) {
      Plan(&layer.q, c.q_width(), c.hidden_size, options_.weights);
      Plan(&layer.k, c.kv_width(), c.hidden_size, options_.weights);
      Plan(&layer.v, c.kv_width(), c.hidden_size, options_.weights);
      Plan(&layer.o, c.hidden_size, c.q_width(), options_.weights);
      Plan(&layer.gate, c.intermediate_size, c.hidden_size, options_.weights);
      Plan(&layer.up, c.intermediate_size, c.hidden_size, options_.weights);
      Plan(&layer.down, c.hidden_size, c.intermediate_size, options_.weights);
      DUO_RETURN_IF_ERROR(Vectors(c, &layer));
    }
    return FillMatrices();
  }

 private:
  void Plan(MatrixView* view, int64_t rows, int64_t columns, WeightType type) {
    view->dtype = DType::kBF16;
    view->n_out = rows;
    view->n_in = columns;
    offsets_.push_back(bytes_);
    views_.push_back(view);
    types_.push_back(type);
    if (type == WeightType::kNative) bytes_ += RoundUp(view->bytes(), kCacheLineBytes);
  }

  Status Vectors(const ModelConfig& c, LayerWeights* layer) {
    DUO_RETURN_IF_ERROR(Vector(c.hidden_size, 1.0f, &layer->attention_norm));
    DUO_RETURN_IF_ERROR(Vector(c.hidden_size, 1.0f, &layer->mlp_norm));
    if (c.qkv_bias) {
      DUO_RETURN_IF_ERROR(Vector(c.q_width(), 0.0f, &layer->q_bias));
      DUO_RETURN_IF_ERROR(Vector(c.kv_width(), 0.0f, &layer->k_bias));
      DUO_RETURN_IF_ERROR(Vector(c.kv_width(), 0.0f, &layer->v_bias));
    }
    if (c.o_bias) DUO_RETURN_IF_ERROR(Vector(c.hidden_size, 0.0f, &layer->o_bias));
    if (c.mlp_bias) {
      DUO_RETURN_IF_ERROR(Vector(c.intermediate_size, 0.0f, &layer->gate_bias));
      DUO_RETURN_IF_ERROR(Vector(c.intermediate_size, 0.0f, &layer->up_bias));
      DUO_RETURN_IF_ERROR(Vector(c.hidden_size, 0.0f, &layer->down_bias));
    }
    if (c.qk_norm) {
      DUO_RETURN_IF_ERROR(Vector(c.head_dim, 1.0f, &layer->q_norm));
      DUO_RETURN_IF_ERROR(Vector(c.head_dim, 1.0f, &layer->k_norm));
    }
    return OkStatus();
  }

  Status Vector(int64_t n, float mean, const float** vector) {
    DUO_ASSIGN_OR_RETURN(float* values, weights_->NewVector(n));
    for (int64_t i = 0; i < n; ++i) values[i] = mean + 0.02f * static_cast<float>(rng_.Normal());
    *vector = values;
    weights_->total_bytes += n * sizeof(float);
    return OkStatus();
  }

  Status FillMatrices() {
    DUO_ASSIGN_OR_RETURN(weights_->random_, Buffer::Allocate(bytes_));
    // The length is odd, so that the repeated table never lines up with the rows.
    std::vector<bf16> table(65521);
    for (bf16& value : table) value = ToBf16(0.02f * static_cast<float>(rng_.Normal()));
    const size_t table_bytes = table.size() * sizeof(bf16);
    uint8_t* base = weights_->random_.as<uint8_t>();
    ParallelFor(weights_->backend->n_threads(), DivideUp(bytes_, table_bytes), [&](int64_t block, int) {
      const size_t begin = block * table_bytes;
      std::memcpy(base + begin, table.data(), std::min(table_bytes, bytes_ - begin));
    });
    for (size_t i = 0; i < views_.size(); ++i) {
      MatrixView& view = *views_[i];
      if (types_[i] == WeightType::kNative) {
        view.data = base + offsets_[i];
      } else {
        const MatrixRows row_of = [&table, n = view.n_in](int64_t row, float* out) {
          size_t at = row * n % table.size();
          for (int64_t d = 0; d < n; ++d, at = at + 1 == table.size() ? 0 : at + 1) out[d] = ToFloat(table[at]);
        };
        DUO_RETURN_IF_ERROR(weights_->Quantize(types_[i], options_, row_of, &view));
      }
      weights_->total_bytes += view.bytes();
    }
    if (weights_->config.tied_embeddings) weights_->lm_head = weights_->embedding;
    return OkStatus();
  }

  Model::Weights* weights_;
  Rng rng_;
  const ModelOptions& options_;
  std::vector<MatrixView*> views_;
  std::vector<size_t> offsets_;
  std::vector<WeightType> types_;
  size_t bytes_ = 0;  // size of all plain matrices
};

Result<std::unique_ptr<Model::Weights>> Model::Weights::FromRandom(const ModelConfig& config, uint64_t seed,
                                                                   Backend* backend, const ModelOptions& options) {
  auto weights = std::make_unique<Weights>();
  weights->config = config;
  weights->config.weights_type = DType::kBF16;
  weights->config.weights = options.weights;
  weights->backend = backend;
  DUO_RETURN_IF_ERROR(RandomFiller(weights.get(), seed, options).Fill());
  DUO_RETURN_IF_ERROR(weights->Place(options));
  return weights;
}

}  // namespace duo
