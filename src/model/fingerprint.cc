#include "model/fingerprint.h"

#include <algorithm>

#include "base/fnv1a.h"
#include "model/weights.h"

namespace duo {

std::string ModelFingerprint(const Model& model) {
  constexpr size_t kBytes = 4096;
  Fnv1a hash;
  const auto add = [&](const MatrixView& matrix) {
    const size_t size = matrix.dtype == DType::kU8
                            ? matrix.bytes()
                            : static_cast<size_t>(matrix.n_out * matrix.n_in) * DTypeBytes(matrix.dtype);
    hash.Add(matrix.data, std::min(size, kBytes));
  };
  const ModelConfig& c = model.config();
  const double numbers[] = {double{c.rms_norm_eps}, double{c.rope_amplitude}};
  hash.Add(numbers, sizeof numbers);
  hash.Add(c.inv_freq.data(), c.inv_freq.size() * sizeof c.inv_freq[0]);
  add(model.weights().embedding);
  for (const LayerWeights& w : model.weights().layers) {
    for (const MatrixView* matrix : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) add(*matrix);
  }
  return hash.Text();
}

}  // namespace duo
