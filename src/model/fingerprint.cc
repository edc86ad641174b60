#include "model/fingerprint.h"

#include <cstddef>
#include <cstdint>

#include "base/fnv1a.h"
#include "model/weights.h"

namespace duo {
namespace {

/// Enough to notice a fine-tune whatever its first changed layer is. A model with 36 layers has 8 MiB of such pages.
constexpr size_t kPages = 8;
constexpr size_t kPageBytes = 4096;

void AddVector(const float* values, int64_t n, Fnv1a* hash) {
  if (values != nullptr) hash->Add(values, n * sizeof(float));
}

void AddMatrix(const MatrixView& matrix, Fnv1a* hash) {
  const size_t size =
      matrix.dtype == DType::kU8 ? matrix.bytes() : matrix.n_out * matrix.n_in * DTypeBytes(matrix.dtype);
  if (size <= kPages * kPageBytes) {
    hash->Add(matrix.data, size);
  } else {
    const auto* const bytes = static_cast<const uint8_t*>(matrix.data);
    const size_t last = size - kPageBytes;
    for (size_t i = 0; i < kPages; ++i) hash->Add(bytes + last * i / (kPages - 1), kPageBytes);
  }
  AddVector(matrix.scale, matrix.n_out, hash);
}

}  // namespace

std::string ModelFingerprint(const Model::Weights& weights) {
  if (!weights.fingerprint.empty()) return weights.fingerprint;
  const ModelConfig& c = weights.config;
  Fnv1a hash;
  const int64_t shape[] = {c.n_layers,    c.n_heads,           c.n_kv_heads, c.head_dim,
                           c.hidden_size, c.intermediate_size, c.vocab_size, static_cast<int64_t>(c.weights)};
  hash.Add(shape, sizeof shape);
  const double numbers[] = {double{c.rms_norm_eps}, double{c.rope_amplitude}};
  hash.Add(numbers, sizeof numbers);
  hash.Add(c.inv_freq.data(), c.inv_freq.size() * sizeof c.inv_freq[0]);
  AddMatrix(weights.embedding, &hash);
  AddMatrix(weights.lm_head, &hash);
  AddVector(weights.final_norm, c.hidden_size, &hash);
  for (const LayerWeights& w : weights.layers) {
    AddVector(w.attention_norm, c.hidden_size, &hash);
    AddVector(w.mlp_norm, c.hidden_size, &hash);
    AddVector(w.q_norm, c.head_dim, &hash);
    AddVector(w.k_norm, c.head_dim, &hash);
    AddVector(w.q_bias, w.q.n_out, &hash);
    AddVector(w.k_bias, w.k.n_out, &hash);
    AddVector(w.v_bias, w.v.n_out, &hash);
    for (const MatrixView* matrix : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) AddMatrix(*matrix, &hash);
  }
  return hash.Text();
}

std::string ModelFingerprint(const Model& model) { return ModelFingerprint(model.weights()); }

}  // namespace duo
