#include "identify/linear_inputs.h"

#include <algorithm>
#include <cmath>
#include "backend/backend.h"
#include "base/error.h"

namespace duo {

double InputMagnitudes::outlier() const {
  const float largest = max.empty() ? 0.0f : *std::max_element(max.begin(), max.end());
  return rms > 0 ? static_cast<double>(largest) / rms : 0;
}

Result<std::vector<LayerInputs>> MeasureLinearInputs(const Model& model, std::span<const int32_t> ids,
                                                     const WalkOptions& options, const ProgressCallback& progress) {
  if (ids.empty()) return InvalidArgument("the text to calibrate on has no tokens");
  const auto n_tokens = std::ssize(ids);
  DUO_ASSIGN_OR_RETURN(LayerWalk walk, LayerWalk::Create(model, n_tokens, options));
  std::vector<LayerInputs> layers(model.config().n_layers);
  std::vector<float> x;
  LayerObserver observer;
  observer.linear_input = [&](const LinearInputView& view) {
    InputMagnitudes& of = layers[view.layer].of[static_cast<size_t>(view.input)];
    of.max.resize(view.dim, 0.0f);
    x.resize(view.n * view.dim);
    DUO_RETURN_IF_ERROR(model.backend()->ToHost(view.x, x.data(), x.size() * sizeof(float)));
    double squares = 0;
    for (size_t row = 0; row < x.size(); row += of.max.size()) {
      for (size_t i = 0; i < of.max.size(); ++i) {
        const float value = x[row + i];
        of.max[i] = std::max(of.max[i], std::fabs(value));
        squares += static_cast<double>(value) * static_cast<double>(value);
      }
    }
    of.rms += squares;  // a sum of squares until all tokens are done
    return OkStatus();
  };
  ProgressCounter counter(progress, "calibrate", "tokens", n_tokens);
  DUO_RETURN_IF_ERROR(walk.RunInChunks(ids, observer, &counter));
  for (size_t l = 0; l < layers.size(); ++l) {
    for (InputMagnitudes& of : layers[l].of) {
      if (!std::isfinite(of.rms)) {
        return Internal(
            "model {}: inputs of the matrices of layer {} are NaN or infinite; its weights are damaged, or their "
            "products overflow",
            model.config().name, l);
      }
      of.rms = std::sqrt(of.rms / (static_cast<double>(n_tokens) * static_cast<double>(of.max.size())));
    }
  }
  return layers;
}

}  // namespace duo
