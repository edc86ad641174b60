#include "model/fingerprint.h"

#include <algorithm>

#include "base/fnv1a.h"
#include "model/weights.h"

namespace duo {

std::string ModelFingerprint(const Model& model) {
  constexpr size_t kBytes = 4096;
  Fnv1a hash;
  const auto add = [&](const TensorView& matrix) {
    const size_t size = static_cast<size_t>(matrix.shape[0] * matrix.shape[1]) * DTypeBytes(matrix.dtype);
    hash.Add(matrix.data, std::min(size, kBytes));
  };
  const ModelConfig& c = model.config();
  const double numbers[] = {double{c.rms_norm_eps}, double{c.rope_amplitude}};
  hash.Add(numbers, sizeof numbers);
  hash.Add(c.inv_freq.data(), c.inv_freq.size() * sizeof c.inv_freq[0]);
  add(model.weights().embedding);
  for (const LayerWeights& w : model.weights().layers) {
    for (const TensorView* matrix : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) add(*matrix);
  }
  return hash.Text();
}

}  // namespace duo
