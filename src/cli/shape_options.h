// A model's shape and its choice of heads, for the verbs that need no text: plan and bench. Both also work without a
// checkpoint (--config) and without a pattern, because bytes and speed depend only on the number of heads of each kind.
#pragma once

#include <optional>
#include <string>

#include "cli/common_options.h"

namespace duo::cli {

/// Adds --config FILE. The verb must have the common flags already.
void AddConfigOption(CLI::App* verb, std::string* config);

/// A choice of heads and where it comes from.
struct ShapeHeads {
  HeadChoice heads;
  std::optional<HeadPattern> pattern;  // cut to the layers that run
  std::string description;             // for people: "128 of 256 KV heads stream, evenly spread"
};

/// Chooses heads for the first n_layers of `config`, the ones that run. With a pattern, ChooseHeads decides by the
/// gates of these layers. Without one, a share --sparsity (default `default_sparsity`) of all heads streams, evenly
/// spread. kInvalidArgument for --threshold without a pattern and for a pattern of another shape.
Result<ShapeHeads> ChooseShapeHeads(const CommonOptions& options, const ModelConfig& config, int n_layers,
                                    double default_sparsity);

}  // namespace duo::cli
