#include "cli/shape_options.h"

#include <fmt/format.h>

#include "base/error.h"
#include "cli/flags.h"

namespace duo::cli {
namespace {

/// Chooses as many retrieval heads as ChooseAtRandom would, and spreads them over the model like the pixels of a
/// straight line.
Result<HeadChoice> SpreadEvenly(int n_layers, int n_kv_heads, double sparsity) {
  DUO_ASSIGN_OR_RETURN(HeadChoice choice, ChooseAtRandom(n_layers, n_kv_heads, sparsity, 0));
  const auto n_heads = std::ssize(choice.retrieval);
  const int64_t n_retrieval = choice.n_retrieval();
  for (int64_t i = 0; i < n_heads; ++i) {
    choice.retrieval[i] = (i + 1) * n_retrieval / n_heads > i * n_retrieval / n_heads ? 1 : 0;
  }
  return choice;
}

}  // namespace

void AddConfigOption(CLI::App* verb, std::string* config) {
  AddText(verb, "--config", config, "a file", "Use the shape in this config.json; no weights are needed.")
      ->type_name("FILE")
      ->excludes("--model");
}

Result<ShapeHeads> ChooseShapeHeads(const CommonOptions& options, const ModelConfig& config, int n_layers,
                                    double default_sparsity) {
  ShapeHeads shape;
  if (options.pattern.empty() || options.pattern == "none") {
    if (options.threshold) {
      return InvalidArgument("--threshold: needs --pattern DIR, whose gates are compared with it");
    }
    const double sparsity = options.sparsity.value_or(default_sparsity);
    DUO_ASSIGN_OR_RETURN(shape.heads, SpreadEvenly(n_layers, config.n_kv_heads, sparsity));
    shape.description = fmt::format("no pattern: {} of {} KV heads stream, evenly spread",
                                    static_cast<int>(shape.heads.retrieval.size()) - shape.heads.n_retrieval(),
                                    shape.heads.retrieval.size());
    return shape;
  }
  DUO_ASSIGN_OR_RETURN(shape.pattern, LoadPattern(options));
  const Status fits = CheckPatternShape(*shape.pattern, config.n_layers, config.n_kv_heads);
  if (!fits.ok()) return fits.Annotate("--pattern " + options.pattern);
  shape.pattern->n_layers = n_layers;
  shape.pattern->gates.resize(static_cast<size_t>(n_layers) * static_cast<size_t>(config.n_kv_heads));
  ModelConfig that_runs = config;
  that_runs.n_layers = n_layers;
  DUO_ASSIGN_OR_RETURN(shape.heads, ChooseHeads(options, shape.pattern, that_runs));
  shape.description = fmt::format("{} of {} KV heads stream, by the pattern {}",
                                  static_cast<int>(shape.heads.retrieval.size()) - shape.heads.n_retrieval(),
                                  shape.heads.retrieval.size(), options.pattern);
  return shape;
}

}  // namespace duo::cli
