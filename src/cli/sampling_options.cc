#include "cli/sampling_options.h"

#include <fmt/format.h>

#include <limits>

#include "cli/flags.h"

namespace duo::cli {

void AddGenerateOptions(CLI::App* verb, GenerateOptions* options) {
  SamplerOptions& sampler = options->sampler;
  const std::string own_group = verb->option_defaults()->get_group();
  verb->option_defaults()->group("Text");
  const auto number = [](double value) { return fmt::format("{:g}", value); };
  AddInt(verb, "--max-tokens", {0, int64_t{1} << 36}, &options->max_tokens, "Max tokens to generate.")
      ->default_str(std::to_string(options->max_tokens));
  AddReal(verb, "--temperature", {0}, &sampler.temperature,
          "Divide the logits by F; 0 always takes the most likely token.")
      ->default_str(number(sampler.temperature));
  AddInt(verb, "--top-k", {0}, &sampler.top_k, "Draw from the N most likely tokens; 0 means all.")
      ->default_str(std::to_string(sampler.top_k));
  AddReal(verb, "--top-p", {std::numeric_limits<double>::min(), 1}, &sampler.top_p,
          "Draw from the smallest set of tokens whose probability reaches F, at most 1.")
      ->default_str(number(sampler.top_p));
  AddReal(verb, "--min-p", {0, 1}, &sampler.min_p, "Draw from tokens at least F times as likely as the best.")
      ->default_str(number(sampler.min_p));
  AddReal(verb, "--repetition-penalty", {std::numeric_limits<double>::min()}, &sampler.repetition_penalty,
          "Penalty for tokens among the last 64; values above 1 make them less likely.")
      ->default_str(number(sampler.repetition_penalty));
  AddTexts(verb, "--stop", &options->stop, "End the text before TEXT; may be given several times.")->type_name("TEXT");
  verb->option_defaults()->group(own_group);
}

}  // namespace duo::cli
